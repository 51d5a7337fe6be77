import pytest

from avcompress.recipe import OpenVinoEngine, OrtEngine, RtxEngine, TrtEngine
from avcompress.spec import MissingError
from engines import machine
from engines.machine import Machine, building_gpu, local_gpu, local_machine, needs_rebuild
from engines.manifest import Gpu, read_manifest, system_name
from engines.tensorrt.device import Device

ADA = Gpu(name="NVIDIA RTX 4070", compute_capability="8.9", driver="570.10")


def here(**versions):
    return Machine(versions, "Linux x86_64", None)


@pytest.fixture
def manifest(whole_bundle):
    found = read_manifest(whole_bundle("ort")).model_copy(update={"system": "Linux x86_64"})

    def make(**changes):
        return found.model_copy(update=changes)

    return make


@pytest.mark.parametrize("engine", [OrtEngine(backend="ort"), OpenVinoEngine(backend="openvino")])
def test_an_engine_for_cpus_runs_on_any_system_and_gpu_but_in_its_version(manifest, engine):
    found = manifest(engine=engine, versions={"runtime": "1.2"})

    assert needs_rebuild(found, here(runtime="1.2")) is None
    assert needs_rebuild(found, Machine({"runtime": "1.2"}, "Linux aarch64", ADA)) is None
    assert needs_rebuild(found, here(runtime="1.3")) == "built with runtime 1.2, this machine has 1.3"
    assert needs_rebuild(found, here(other="1")) == "built with other an unknown version, this machine has 1"


@pytest.mark.parametrize(
    ("capabilities", "gpu", "reason"),
    [
        (("sm86", "sm89"), ADA, None),
        (("sm86",), ADA, "built for sm86, this machine's NVIDIA RTX 4070 is sm89"),
        (("sm86",), None, None),
    ],
)
def test_an_rtx_engine_runs_on_the_gpus_that_it_was_compiled_for(manifest, capabilities, gpu, reason):
    engine = RtxEngine(backend="trt_rtx", compute_capabilities=capabilities)

    assert needs_rebuild(manifest(engine=engine), Machine({}, "Linux x86_64", gpu)) == reason


def test_an_rtx_engine_runs_on_its_own_system_only(manifest):
    engine = RtxEngine(backend="trt_rtx")

    assert needs_rebuild(manifest(engine=engine), Machine({}, "Linux aarch64", ADA)) == (
        "built on Linux x86_64, this machine is Linux aarch64"
    )


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (ADA, None),
        (ADA.model_copy(update={"driver": "580.1"}), None),
        (
            ADA.model_copy(update={"name": "NVIDIA L4"}),
            "built on NVIDIA L4 (compute capability 8.9), this machine has NVIDIA RTX 4070 (sm89)",
        ),
        (None, "built for an unknown GPU, this machine has NVIDIA RTX 4070"),
    ],
    ids=["same", "driver", "other", "unknown"],
)
def test_an_engine_of_tensorrt_runs_on_the_gpu_that_it_was_built_on(manifest, monkeypatch, built, reason):
    monkeypatch.setattr(machine, "_PORTABLE", frozenset())  # the rule for every engine that is built on its GPU

    assert needs_rebuild(manifest(gpu=built), Machine({}, "Linux x86_64", ADA)) == reason


def test_this_machine_s_version_is_the_one_that_a_builder_records(whole_bundle):
    for backend in ("ort", "openvino"):
        found = read_manifest(whole_bundle(backend))
        local = local_machine(found.engine)

        assert needs_rebuild(found, local) is None
        assert local.versions.items() <= found.versions.items()
        assert (local.system, local.gpu) == (system_name(), None)


@pytest.mark.rtx
def test_this_machine_s_version_of_tensorrt_rtx_is_the_one_that_its_builder_records(whole_bundle):
    pytest.importorskip("tensorrt_rtx")
    found = read_manifest(whole_bundle("trt_rtx"))

    assert local_machine(found.engine).versions.items() <= found.versions.items()


def test_a_machine_without_the_backend_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingError, match="pip install onnxruntime"):
        local_machine(OrtEngine(backend="ort"))


def test_a_gpu_is_described_by_its_driver(monkeypatch):
    monkeypatch.setattr(machine, "find_device", lambda: Device("Orin", "8.7", "CUDA 12.6, driver 540.4.0"))

    found = Gpu(name="Orin", compute_capability="8.7", driver="CUDA 12.6, driver 540.4.0")
    assert local_gpu() == found
    assert building_gpu(TrtEngine(backend="trt")) == found
    # Built ahead of time, for other GPUs than this machine's.
    assert building_gpu(RtxEngine(backend="trt_rtx")) is None


def test_a_machine_without_a_gpu_has_none(monkeypatch):
    def missing():
        raise MissingError("trt: expected a CUDA device, got none; add one")

    monkeypatch.setattr(machine, "find_device", missing)
    assert local_gpu() is None
