"""TensorRT sessions on a real device: what the tests with stand-ins cannot know. Skipped where there is none."""

import importlib
import threading

import numpy as np
import pytest

from avcompress.spec import EngineError, MissingError
from engines.tensorrt.cuda import open_cuda
from engines.tensorrt.session import TrtSettings, open_trt

pytestmark = pytest.mark.gpu
LOW, HIGH = (1, 3, 8, 8), (4, 3, 64, 64)
RTX_GPUS = {"7.5", "8.0", "8.6", "8.9", "12.0", "12.1"}


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def package(request):
    try:
        cuda = open_cuda()
    except MissingError as error:
        pytest.skip(str(error))
    if request.param == "tensorrt_rtx" and cuda.device().compute_capability not in RTX_GPUS:
        pytest.skip(f"TensorRT-RTX does not know the {cuda.device().name}")
    pytest.importorskip(request.param)
    return request.param


def small_engine(trt):
    """The bytes of an engine: x ?x3x?x? -> y = relu(x) + x, of the same shape."""
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    flags = trt.NetworkDefinitionCreationFlag
    flag = getattr(flags, "EXPLICIT_BATCH", None)
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED if flag is None else flag))
    x = network.add_input("x", trt.float32, (-1, 3, -1, -1))
    relu = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    y = network.add_elementwise(relu, x, trt.ElementWiseOperation.SUM).get_output(0)
    y.name = "y"
    network.mark_output(y)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", LOW, (1, 3, 32, 32), HIGH)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return bytes(memoryview(plan))


@pytest.fixture
def engine(package, tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(small_engine(importlib.import_module(package)))
    return path


def expected(x):
    return np.maximum(x, 0) + x


@pytest.mark.parametrize("graphs", [True, False])
def test_numbers_are_numpys_at_every_shape(engine, package, graphs):
    rng = np.random.default_rng(0)
    with open_trt(engine, TrtSettings(graphs=graphs), package) as session:
        for shape in (LOW, HIGH, (2, 3, 17, 33), HIGH, LOW):
            for _ in range(4):
                x = rng.normal(size=shape).astype(np.float32)
                assert np.array_equal(session.run({"x": x})["y"], expected(x))
        if graphs and open_cuda().has_graphs:
            assert session.graph_note in {"", "not asked for"}


def test_a_wrong_shape_and_then_a_good_one(engine, package):
    with open_trt(engine, package=package) as session:
        with pytest.raises(EngineError, match="expected 1x3x8x8 to 4x3x64x64"):
            session.run({"x": np.zeros((5, 3, 8, 8), np.float32)})
        x = np.ones(LOW, np.float32)
        assert np.array_equal(session.run({"x": x})["y"], expected(x))


def test_opening_and_closing_keeps_no_memory(engine, package):
    runtime = pytest.importorskip("cuda.bindings.runtime")
    x = np.ones(HIGH, np.float32)

    def open_and_close():
        with open_trt(engine, package=package) as session:
            for _ in range(3):
                session.run({"x": x})

    for _ in range(5):  # modules and caches of the driver settle
        open_and_close()
    _, before, _ = runtime.cudaMemGetInfo()
    for _ in range(30):
        open_and_close()
    _, after, _ = runtime.cudaMemGetInfo()

    assert before - after < 8 << 20


def test_a_session_for_each_thread(engine, package):
    wrong = []

    def work(value):
        x = np.full(HIGH, value, np.float32)
        with open_trt(engine, package=package) as session:
            wrong.extend(1 for _ in range(50) if not np.array_equal(session.run({"x": x})["y"], expected(x)))

    threads = [threading.Thread(target=work, args=(value,)) for value in (-1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_another_thread_may_run_it(engine, package):
    x, results = np.full(LOW, 2, np.float32), []
    with open_trt(engine, TrtSettings(timed=True), package) as session:
        for _ in range(3):
            thread = threading.Thread(target=lambda: results.append(session.run({"x": x})["y"]))
            thread.start()
            thread.join()
        assert session.device_ms > 0

    assert all(np.array_equal(result, expected(x)) for result in results)
    assert len(results) == 3


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty"])
def test_a_damaged_engine_is_an_error_with_a_remedy(engine, package, damage):
    plan = engine.read_bytes()
    engine.write_bytes({"truncated": plan[: len(plan) // 2], "foreign": b"plain text" * 100, "empty": b""}[damage])

    with pytest.raises(EngineError, match=r"expected an engine that TensorRT .* can load, got") as caught:
        open_trt(engine, package=package)

    assert "\n" not in str(caught.value)


def test_the_device_tells_what_it_is():
    try:
        cuda = open_cuda()
    except MissingError as error:
        pytest.skip(str(error))
    device = cuda.device()

    assert device.name
    assert float(device.compute_capability) > 5
    assert device.driver.startswith("CUDA 1")
