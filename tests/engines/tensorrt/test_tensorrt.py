"""TensorRT 8.5 to 11 through a fake that behaves as the real one: what is asked of it, and every way it refuses."""

import gzip
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from avcompress.recipe import TrtEngine
from avcompress.spec import EngineBuildError, MissingError
from engines.build import build_engine, require
from engines.tensorrt import child
from engines.tensorrt.build import build_tensorrt, trt_settings
from engines.tensorrt.child import memory_mb
from engines.tensorrt.optimization import parse_profile
from engines.tensorrt.settings import BuildSettings

VERSIONS = ["8.5.2", "8.6.1", "10.3.0", "10.7.0", "10.13.0", "11.4.1"]
STRONG = [version for version in VERSIONS if not version.startswith("8")]
WEAK = [version for version in VERSIONS if not version.startswith("11")]


def settings(**asked):
    return BuildSettings(module="tensorrt", **asked)


@pytest.fixture
def build(tmp_path, in_process):
    """Build a network with the fake in this process; returns what was built, and what the fake was asked."""

    def run(model, asked=None):
        onnx.save(model, tmp_path / "net.onnx")
        (tmp_path / "engine").mkdir(exist_ok=True)
        built = build_tensorrt(tmp_path / "net.onnx", tmp_path / "engine", asked or settings())
        return built, json.loads((built.folder / "model.engine").read_bytes())

    return run


@pytest.fixture
def refusal(build):
    """The error of a build that must fail: one line, one stage, and what to do at its end."""

    def run(model, asked=None):
        with pytest.raises(EngineBuildError) as caught:
            build(model, asked)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{caught.value.stage}: ")
        assert caught.value.remedy
        assert str(caught.value).endswith(caught.value.remedy)
        return caught.value

    return run


def dynamic(network, size="h"):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="c")]
    return network(nodes, {"x": ("n", 3, size, 32)}, {"y": ("n", 8, None, None)}, {"w": np.ones((8, 3, 3, 3), "f")})


# --- what it is asked


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_a_quantized_network_in_its_own_way(build, tensorrt, two_convs, quantize, version):
    tensorrt(version)

    built, asked = build(quantize(two_convs, ["c1", "c2"]))

    strong = not version.startswith("8")
    assert asked["network_flags"] == {"8": 0b01, "10": 0b11, "11": 0b01}[version.partition(".")[0]]
    assert asked["flags"] == ([] if strong else ["FP16", "INT8"])
    assert built.versions == {"tensorrt": version}
    assert sorted(built.files) == sorted(path.name for path in built.folder.iterdir())
    assert json.loads((built.folder / "inspector.json").read_text())["format"] == "JSON"


@pytest.mark.parametrize("version", VERSIONS)
def test_instance_normalization_is_tensorrts_own_layer_or_before_8_6_its_plugin(build, tensorrt, network, version):
    tensorrt(version)
    nodes = [helper.make_node("InstanceNormalization", ["x", "s", "b"], ["y"], name="norm")]
    numbers = {"s": np.ones(3, "f"), "b": np.zeros(3, "f")}

    built, asked = build(network(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 3, 8, 8)}, numbers))

    assert [layer[0] for layer in asked["layers"]] == ["norm"]
    by_plugin = "by its plugin" in gzip.decompress((built.folder / "build.log.gz").read_bytes()).decode()
    assert by_plugin == (version == "8.5.2")


def test_a_float_network_on_tensorrt_8_gets_no_int8_flag(build, tensorrt, two_convs):
    tensorrt("8.6.1")

    assert build(two_convs)[1]["flags"] == ["FP16"]


@pytest.mark.parametrize("version", WEAK)
def test_the_implicit_dialect_hands_over_cache_and_precisions(build, tensorrt, two_convs, tmp_path, version):
    tensorrt(version)
    # Of no version that is here: the scales are those of any, and TensorRT takes its own version's only.
    (tmp_path / "calibration.cache").write_bytes(b"TRT-8000-EntropyCalibration2\nx: 3c010a14\n")

    _, asked = build(
        two_convs,
        settings(
            dialect="dla-implicit",
            flags=("fp16", "int8", "obey"),
            precisions={"c1": "int8", "c2": "fp32", "r1": "fp16"},
            calibration_cache=str(tmp_path / "calibration.cache"),
        ),
    )

    assert asked["flags"] == ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"]
    assert asked["network_flags"] == 0b01
    given = {name: (precision, types) for name, precision, types in asked["layers"]}
    # DataType of the fake: FLOAT 0, HALF 1, INT8 2.
    assert given == {
        "c1": (2, {"0": 2}),
        "r1": (1, {"0": 1}),
        "c2": (0, {"0": 0}),
        "add": (None, {}),
        "r2": (None, {}),
    }


def test_beside_qdq_only_float_layers_are_fixed(build, tensorrt, two_convs, quantize):
    tensorrt("8.6.1")
    kept = {"c1": "int8", "r1": "fp16", "c2": "fp32"}

    _, asked = build(
        quantize(two_convs, ["c1"]), settings(dialect="weak", flags=("fp16", "int8", "obey"), precisions=kept)
    )

    given = {name: (precision, types) for name, precision, types in asked["layers"] if name in kept}
    # What must not be rounded to FP16 keeps its type on the way out, too.
    assert given == {"c1": (None, {}), "r1": (1, {}), "c2": (0, {"0": 0})}


def test_a_node_that_is_no_layer_of_its_own_is_told(build, tensorrt, two_convs):
    tensorrt("8.6.1")
    kept = {"c2": "fp32", "folded": "fp16"}

    built, _ = build(two_convs, settings(dialect="weak", flags=("fp16", "obey"), precisions=kept))

    assert built.notes == ("precisions: no layer of their own have folded",)


def test_all_settings_reach_the_builder(build, tensorrt, two_convs):
    tensorrt("10.3.0")

    _, asked = build(
        two_convs,
        settings(workspace_mb=512, optimization_level=5, version_compatible=True, hardware_compatible=True),
    )

    assert (asked["workspace"], asked["level"], asked["hardware"]) == (512 << 20, 5, 1)
    assert asked["flags"] == ["VERSION_COMPATIBLE"]


def test_a_recipe_s_engine_asks_what_it_says():
    engine = TrtEngine(backend="trt", workspace_mb=256, optimization_level=2, dla=1, dla_fallback="list", timeout_s=9)

    assert trt_settings(engine) == settings(
        workspace_mb=256, optimization_level=2, dla_core=1, dla_fallback="list", timeout_s=9
    )


def test_a_workspace_larger_than_the_gpu_is_told(build, tensorrt, two_convs):
    tensorrt(gpu_mb=64)

    built, _ = build(two_convs, settings(workspace_mb=512))

    assert built.notes == ("workspace: 512 MB asked, TensorRT took 64 MB",)


def test_profiles_reach_the_builder_for_the_dynamic_inputs_only(build, tensorrt, network):
    profiles = tuple(parse_profile(text) for text in ("x:1x3x32x32,x:1x3x64x32,x:4x3x64x32", "x:8x3x32x32"))

    _, asked = build(dynamic(network), settings(profiles=profiles))

    assert asked["profiles"] == [
        {"x": [[1, 3, 32, 32], [1, 3, 64, 32], [4, 3, 64, 32]]},
        {"x": [[8, 3, 32, 32]] * 3},
    ]


# --- DLA


def test_layers_that_dla_cannot_run_are_refused_by_name(refusal, tensorrt, two_convs):
    tensorrt("10.7.0", dla_cores=2, not_on_dla=["r1", "add"])

    error = refusal(two_convs, settings(dla_core=0))

    assert error.stage == "configure"
    assert error.node == "r1"
    assert "2 of 5 layers cannot run on DLA: r1, add" in str(error)
    assert "--dla-fallback list" in error.remedy


def test_layers_that_dla_cannot_run_are_listed_where_the_gpu_may_take_them(build, tensorrt, two_convs):
    tensorrt("10.7.0", dla_cores=2, not_on_dla=["r1"])

    built, asked = build(two_convs, settings(dla_core=1, dla_fallback="list"))

    assert asked["dla_core"] == 1
    assert asked["flags"] == ["GPU_FALLBACK"]
    assert built.notes == ("DLA: 1 of 5 layers run on the GPU: r1",)


def test_a_network_that_dla_takes_whole_asks_for_no_fallback(build, tensorrt, two_convs):
    tensorrt("10.7.0", dla_cores=1)

    built, asked = build(two_convs, settings(dla_core=0, dla_fallback="list"))

    assert (asked["flags"], built.notes) == ([], ())


@pytest.mark.parametrize(("cores", "part"), [(0, "leave DLA out"), (2, "name a core from 0 to 1")])
def test_a_dla_core_that_is_not_there_is_refused_rather_than_built_for_the_gpu(
    refusal, tensorrt, two_convs, cores, part
):
    tensorrt("10.13.0", dla_cores=cores)

    error = refusal(two_convs, settings(dla_core=2))

    assert (error.stage, error.remedy) == ("configure", part)


def test_dla_takes_no_dynamic_shapes(refusal, tensorrt, network):
    tensorrt("10.7.0", dla_cores=1)
    profile = parse_profile("x:1x3x32x32,x:1x3x64x32,x:1x3x64x32")

    assert "DLA takes no dynamic ones" in str(refusal(dynamic(network), settings(dla_core=0, profiles=(profile,))))


# --- what a version lacks


@pytest.mark.parametrize(
    ("version", "asked", "part", "remedy"),
    [
        ("8.6.1", {"dialect": "strong"}, "no strongly typed networks", "export for the weak dialect"),
        (
            "11.4.1",
            {"dialect": "weak", "flags": ("fp16",)},
            "no weakly typed networks",
            "export for the strong dialect",
        ),
        ("11.4.1", {"dialect": "dla-implicit"}, "no weakly typed networks", "export for the strong dialect"),
        ("8.6.1", {"dialect": "weak", "flags": ("bf16",)}, "no builder flag BF16", "export without bf16"),
        ("8.5.2", {"optimization_level": 3}, "no optimization levels", "leave the optimization level out"),
        ("8.5.2", {"version_compatible": True}, "no version-compatible engines", "build for each version"),
        ("8.5.2", {"hardware_compatible": True}, "no hardware-compatible engines", "build for each GPU"),
    ],
)
def test_what_a_version_lacks_is_refused_with_what_to_do(refusal, tensorrt, two_convs, version, asked, part, remedy):
    tensorrt(version)

    error = refusal(two_convs, settings(**asked))

    assert (error.stage, error.remedy) == ("configure", remedy)
    assert f"tensorrt {version} has {part}" in str(error)


# --- None, False and -1


@pytest.mark.parametrize(
    ("setup", "asked", "stage", "parts"),
    [
        ({"no_builder": True}, {}, "start", ["factory function returned nullptr", "the GPU cannot be used"]),
        ({"no_network": True}, {}, "configure", []),
        ({"no_config": True}, {}, "configure", []),
        ({"unparsable": "Conv"}, {}, "parse", ["node 'c1' (Conv)", "No importer registered for op"]),
        ({"shape_tensors": ["x"]}, {}, "profile", ["input 'x' holds a shape", "as a constant"]),
        ({}, {"workspace_mb": 1}, "build", ["within workspace limit", "raise the workspace"]),
        ({"refuses": "Target GPU SM 87 is not supported"}, {}, "build", ["a TensorRT release that knows this GPU"]),
        ({"refuses": "Could not find any implementation for node c2."}, {}, "build", ["c2", "raise the workspace"]),
        ({"refuses": "Cuda Runtime (out of memory)"}, {}, "build", ["free memory of the GPU"]),
        ({"refuses": "Something nobody has seen"}, {}, "build", ["Something nobody has seen", "change that part"]),
        ({"unloadable": "Serialization assertion failed"}, {}, "load", ["Serialization assertion failed"]),
        (
            {},
            {"dialect": "weak", "flags": ("obey",), "precisions": {"nobody": "int8"}},
            "configure",
            ["no layer is called nobody", "export the folder again"],
        ),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else None,
)
def test_every_refusal_is_one_error_with_stage_and_remedy(refusal, tensorrt, two_convs, setup, asked, stage, parts):
    tensorrt("10.3.0", **setup)

    error = refusal(two_convs, settings(**asked))

    assert error.stage == stage
    for part in parts:
        assert part in str(error)


def test_the_node_that_tensorrt_8_gives_the_place_of_is_named(refusal, tensorrt, two_convs):
    tensorrt("8.6.1", unparsable="Add")

    error = refusal(two_convs)

    assert error.node == "add"
    assert "node 'add' (Add): No importer registered for op" in str(error)


def test_the_node_that_a_message_names_is_told_apart(refusal, tensorrt, two_convs):
    tensorrt(refuses="Could not find any implementation for node c2.")

    assert refusal(two_convs).node == "c2"


def test_a_cache_that_tensorrt_does_not_take_is_refused_before_it_guesses_scales(
    refusal, tensorrt, two_convs, tmp_path
):
    tensorrt("8.6.1")
    (tmp_path / "calibration.cache").write_bytes(b"of another tool")
    asked = settings(dialect="dla-implicit", flags=("int8",), calibration_cache=str(tmp_path / "calibration.cache"))

    error = refusal(two_convs, asked)

    assert error.stage == "calibrate"
    assert "did not take the calibration cache" in str(error)


def test_a_profile_that_tensorrt_does_not_take_is_an_error(refusal, tensorrt, network):
    tensorrt(bad_profile=True)

    error = refusal(dynamic(network), settings(profiles=(parse_profile("x:1x3x32x32"),)))

    assert (error.stage, error.remedy) == ("profile", "mend --shapes")


def test_dynamic_inputs_without_shapes_are_refused_with_shapes_to_give(refusal, tensorrt, network):
    error = refusal(dynamic(network), settings())

    assert error.stage == "profile"
    assert "dynamic inputs x (nx3xhx32), got none; give --shapes, as x:1x3x640x32" in str(error)


# --- timing cache


def test_a_timing_cache_is_new_then_used_then_grows(build, tensorrt, two_convs, tmp_path):
    asked = settings(timing_cache=str(tmp_path / "timings"))

    first, _ = build(two_convs, asked)
    second, given = build(two_convs, asked)

    (file,) = (tmp_path / "timings").iterdir()
    assert first.notes == (f"timing cache: new ({file.name})",)
    assert second.notes == (f"timing cache: used ({file.name}, 6 bytes)",)
    assert given["timing_cache"] == "+timed"
    assert file.read_bytes().endswith(b"\n+timed+timed")


@pytest.mark.parametrize("setup", ["timing_cache_corrupt", "timing_cache_mismatch"])
def test_a_timing_cache_that_tensorrt_does_not_take_is_told_and_replaced(build, tensorrt, two_convs, tmp_path, setup):
    asked = settings(timing_cache=str(tmp_path / "timings"))
    build(two_convs, asked)
    tensorrt(**{setup: True})

    built, given = build(two_convs, asked)

    (note,) = built.notes
    assert "ignored (TensorRT does not take it), timed anew" in note
    assert given["timing_cache"] == ""


def test_a_timing_cache_that_is_not_given_back_is_told(build, tensorrt, two_convs, tmp_path):
    tensorrt(no_timing_cache_back=True)

    built, _ = build(two_convs, settings(timing_cache=str(tmp_path / "timings")))

    assert built.notes[-1] == "timing cache: TensorRT gave none back, nothing was kept"
    assert not list(tmp_path.glob("timings/*"))


def test_a_timing_cache_that_cannot_be_kept_does_not_cost_the_engine(build, tensorrt, two_convs, tmp_path):
    (tmp_path / "file").write_text("")

    built, _ = build(two_convs, settings(timing_cache=str(tmp_path / "file" / "timings")))

    assert built.notes[-1].startswith("timing cache: not kept: ")
    assert (built.folder / "model.engine").is_file()


# --- the child


@pytest.fixture
def net(tmp_path, two_convs):
    onnx.save(two_convs, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_child_builds_and_reports_every_percent_once(net, tmp_path, tensorrt):
    seen = []

    def track(items, total=None):
        assert total == 100
        for item in items:
            seen.append(item)
            yield item

    built = build_engine(net, tmp_path / "engine", settings(), track)

    assert seen == list(range(100))
    assert built.backend == "trt"
    assert sorted(path.name for path in built.folder.iterdir()) == sorted(built.files)


def test_a_compiler_that_crashes_is_one_error(net, tmp_path, tensorrt):
    tensorrt(crash=True)

    with pytest.raises(EngineBuildError, match=r"build: net.onnx: .* it crashed \(SIGSEGV\)"):
        build_engine(net, tmp_path / "engine", settings())
    assert not (tmp_path / "engine").exists()


def test_a_compiler_that_takes_more_memory_than_allowed_is_ended(net, tmp_path, tensorrt):
    tensorrt(take_mb=600)
    begun = time.monotonic()

    with pytest.raises(EngineBuildError) as caught:
        build_engine(net, tmp_path / "engine", settings(memory_limit_mb=300))

    assert time.monotonic() - begun < 30
    assert "takes 300 MB at most, got one at" in str(caught.value)
    assert caught.value.remedy.startswith("raise memory_limit_mb")


def test_a_compiler_within_its_memory_is_left_alone(net, tmp_path, tensorrt):
    assert build_engine(net, tmp_path / "engine", settings(memory_limit_mb=2000)).size_bytes


def test_memory_is_that_which_is_held_not_that_which_is_reserved():
    import mmap

    before = memory_mb(os.getpid())
    with mmap.mmap(-1, 512 << 20) as reserved:
        assert memory_mb(os.getpid()) - before < 100
        reserved[: 256 << 20] = bytes(256 << 20)
        assert 200 < memory_mb(os.getpid()) - before < 400


def test_memory_of_a_process_that_is_gone_is_none():
    assert memory_mb(2**22 + 1) == 0


def test_a_second_signal_does_not_leave_a_child(net, tmp_path, tensorrt, monkeypatch):
    """SIGTERM, as the command line turns it into an exception, ends the child before the call ends."""
    tensorrt(hang=60)
    started = []
    popen = child.subprocess.Popen

    def start(*arguments, **options):
        process = popen(*arguments, **options)
        started.append(process)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        return process

    class Interrupted(BaseException):
        pass

    def interrupt(number, frame):
        raise Interrupted

    monkeypatch.setattr(child.subprocess, "Popen", start)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupted):
            build_engine(net, tmp_path / "engine", settings())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert started[0].returncode == -signal.SIGKILL
    assert not (tmp_path / "engine").exists()


# --- this machine


def test_without_a_gpu_nothing_of_tensorrt_is_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake"))

    with pytest.raises(MissingError, match=r"trt: expected a CUDA device, got .*--export-only"):
        require(TrtEngine(backend="trt"))
    assert "tensorrt" not in sys.modules
