import enum
import gc
import threading

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avcompress.spec import EngineError, MissingError
from engines.tensorrt import session as module
from engines.tensorrt.session import TrtSession, TrtSettings, open_trt

PLAN = b"plan"
LOW, BEST, HIGH = (1, 3, 8, 8), (1, 3, 16, 16), (4, 3, 32, 32)


@pytest.fixture
def static(plan, tensor):
    """x 1x2x3 -> y = 2 x + 1."""
    return plan((tensor("x", (1, 2, 3)), tensor("y", (1, 2, 3), is_input=False)), lambda i: {"y": 2 * i["x"] + 1})


@pytest.fixture
def dynamic(plan, tensor):
    """image ?x3x?x?, gain 1 -> total ?: of each image's values, and scaled: the image times gain."""
    return plan(
        (
            tensor("image", (-1, 3, -1, -1), profiles=((LOW, BEST, HIGH),)),
            tensor("total", (-1,), is_input=False),
            tensor("gain", (1,)),
            tensor("scaled", (-1, 3, -1, -1), is_input=False),
        ),
        lambda i: {"total": i["image"].sum(axis=(1, 2, 3)), "scaled": i["image"] * i["gain"]},
        lambda shapes: {"total": shapes["image"][:1]},
    )


@pytest.fixture
def load(trt, cuda):
    def run(plan, **chosen):
        trt.plans[PLAN] = plan
        return TrtSession(trt, cuda, PLAN, TrtSettings(**chosen), "here")

    return run


def x(value=1.0):
    return {"x": np.full((1, 2, 3), value, np.float32)}


def image(shape, value=1.0):
    return {"image": np.full(shape, value, np.float32), "gain": np.float32([3])}


def test_numbers_go_in_and_come_out(load, static):
    with load(static) as session:
        assert session.inputs == {"x": (1, 2, 3)}
        assert session.outputs == ("y",)
        results = [session.run(x(value))["y"] for value in (1, 2, 3, 4)]

    assert [result.tolist() for result in results] == [[[[2 * v + 1] * 3] * 2] for v in (1, 2, 3, 4)]


def test_the_arrays_that_come_back_are_the_callers_own(load, static):
    with load(static) as session:
        first = session.run(x(1))["y"]
        session.run(x(5))
        first += 1

    assert first.flags.owndata
    assert first.flags.writeable
    assert (first == 4).all()


def test_strided_and_read_only_inputs_give_the_same_result(load, static):
    plain = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    strided = np.repeat(plain, 2, axis=2)[:, :, ::2]
    locked = plain.copy()
    locked.setflags(write=False)

    with load(static) as session:
        results = [session.run({"x": value})["y"] for value in (plain, strided, locked)]

    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_copies_and_inference_become_one_graph_after_the_first_run(load, static, cuda):
    with load(static) as session:
        session.run(x())
        assert not cuda.graphs
        session.run(x())
        assert len(cuda.graphs) == 1
        cuda.calls.clear()
        session.run(x(7))
        assert cuda.calls == ["launch_graph", "synchronize"]
        assert session.graph_note == ""


def test_graphs_can_be_left_out(load, static, cuda):
    with load(static, graphs=False) as session:
        results = [session.run(x(value))["y"][0, 0, 0] for value in range(4)]
        assert session.graph_note == "not asked for"

    assert results == [1, 3, 5, 7]
    assert "begin_capture" not in cuda.calls


def test_a_package_without_graphs_runs_call_by_call_and_says_so(load, static, cuda):
    cuda.has_graphs = False

    with load(static) as session:
        results = [session.run(x(value))["y"][0, 0, 0] for value in range(4)]
        assert session.graph_note == "fake cuda has no CUDA graphs"

    assert results == [1, 3, 5, 7]
    assert "begin_capture" not in cuda.calls


@pytest.mark.parametrize("call", ["begin_capture", "copy_to_device", "end_capture"])
def test_a_recording_that_fails_falls_back_to_single_calls_for_good(load, static, cuda, call):
    with load(static) as session:
        session.run(x())
        cuda.fail[call] = ("cudaErrorStreamCaptureUnsupported (900)", False)
        results = [session.run(x(value))["y"][0, 0, 0] for value in range(4)]
        assert "cannot be recorded" in session.graph_note
        assert "cudaErrorStreamCaptureUnsupported" in session.graph_note
        assert cuda.calls.count("begin_capture") == 1

    assert results == [1, 3, 5, 7]
    assert cuda.leaks == {}


def test_an_engine_that_refuses_to_be_recorded_falls_back_too(load, static, trt, cuda):
    with load(static) as session:
        session.run(x())
        trt.refuse["execute_async_v3"] = "this layer synchronizes the stream"
        results = [session.run(x(value))["y"][0, 0, 0] for value in range(4)]
        assert "this layer synchronizes the stream" in session.graph_note

    assert results == [1, 3, 5, 7]
    assert not cuda.graphs


def test_an_interrupted_recording_leaves_the_stream_usable(load, static, cuda, monkeypatch):
    with load(static) as session:
        session.run(x())
        whole = cuda.copy_to_host

        def interrupt(*_):
            monkeypatch.setattr(cuda, "copy_to_host", whole)
            raise KeyboardInterrupt

        monkeypatch.setattr(cuda, "copy_to_host", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.run(x())
        results = [session.run(x(value))["y"][0, 0, 0] for value in range(4)]

    assert results == [1, 3, 5, 7]
    assert cuda.leaks == {}


def test_shapes_may_change_from_run_to_run(load, dynamic, cuda):
    shapes = [(1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 32, 32), (2, 3, 9, 31), (2, 3, 9, 31), (2, 3, 9, 31), (1, 3, 8, 8)]

    with load(dynamic) as session:
        assert session.inputs == {"image": (-1, 3, -1, -1), "gain": (1,)}
        for value, shape in enumerate(shapes):
            outputs = session.run(image(shape, value))
            assert list(outputs) == ["total", "scaled"]
            assert np.array_equal(outputs["total"], np.full(shape[0], value * np.prod(shape[1:]), np.float32))
            assert np.array_equal(outputs["scaled"], np.full(shape, 3 * value, np.float32))

    assert cuda.leaks == {}


def test_memory_is_taken_once_for_the_largest_shape(load, dynamic, cuda):
    with load(dynamic) as session:
        taken = sorted(array.nbytes for array in cuda.device_memory.values())
        cuda.calls.clear()
        for shape in (LOW, HIGH, BEST):
            session.run(image(shape))

    assert taken == sorted([4 * 3 * 32 * 32 * 4] * 2 + [4 * 4, 4])
    assert "allocate" not in cuda.calls


def test_a_new_shape_needs_a_new_graph_and_the_old_one_is_given_back(load, dynamic, cuda):
    with load(dynamic) as session:
        for shape in (LOW, LOW, LOW, HIGH, HIGH, HIGH):
            session.run(image(shape))
            assert len(cuda.graphs) <= 1

    assert cuda.calls.count("begin_capture") == 2
    assert cuda.log.count("graph") == 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 3, 8, 8), "input 'image': expected 1x3x8x8 to 4x3x32x32, got 5x3x8x8; resize the input"),
        ((1, 3, 7, 8), "expected 1x3x8x8 to 4x3x32x32, got 1x3x7x8"),
        ((0, 3, 8, 8), "got 0x3x8x8"),
        ((1, 4, 8, 8), r"expected float32 \?x3x\?x\?, got float32 1x4x8x8"),
        ((3, 8, 8), r"got float32 3x8x8"),
    ],
)
def test_a_shape_outside_the_profile_is_refused_and_the_next_one_runs(load, dynamic, shape, message):
    with load(dynamic) as session:
        session.run(image(LOW, 2))
        with pytest.raises(EngineError, match=message):
            session.run(image(shape))
        assert session.run(image(LOW, 2))["total"].tolist() == [2 * 3 * 8 * 8]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": np.zeros((1, 2, 3), np.float32)}, r"expected inputs \['x'\], got \['z'\]"),
        ({"x": np.zeros((1, 2, 3))}, "expected float32 1x2x3, got float64 1x2x3"),
        ({"x": [1.0]}, "expected an array, got list"),
    ],
)
def test_a_wrong_input_never_reaches_the_device(load, static, cuda, inputs, message):
    with load(static) as session:
        cuda.calls.clear()
        with pytest.raises(EngineError, match=message):
            session.run(inputs)
        assert cuda.calls == []


@given(
    shapes=st.lists(st.tuples(st.integers(1, 4), st.just(3), st.integers(8, 32), st.integers(8, 32)), max_size=6),
    repeats=st.integers(1, 3),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_shapes_gives_what_numpy_gives(cuda, trt, dynamic, shapes, repeats, seed):
    rng = np.random.default_rng(seed)
    device = type(cuda)()  # an example's own
    tensorrt = type(trt)(device)
    tensorrt.plans[PLAN] = dynamic

    with TrtSession(tensorrt, device, PLAN, TrtSettings(), "here") as session:
        for shape in shapes:
            for _ in range(repeats):
                value = rng.normal(size=shape).astype(np.float32)
                outputs = session.run({"image": value, "gain": np.float32([0.5])})
                assert np.array_equal(outputs["scaled"], value * np.float32(0.5))
                assert np.array_equal(outputs["total"], value.sum(axis=(1, 2, 3)))

    assert device.leaks == {}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("HALF", np.float16),
        ("BF16", ml_dtypes.bfloat16),
        ("FP8", ml_dtypes.float8_e4m3fn),
        ("UINT8", np.uint8),
        ("INT8", np.int8),
        ("INT32", np.int32),
        ("INT64", np.int64),
        ("BOOL", np.bool_),
    ],
)
def test_every_type_of_whole_bytes_passes_through(load, plan, tensor, name, dtype):
    copy = plan((tensor("x", (2, 2), name), tensor("y", (2, 2), name, is_input=False)), lambda i: {"y": i["x"]})
    value = np.array([[0, 1], [1, 0]]).astype(dtype)

    with load(copy) as session:
        output = session.run({"x": value})["y"]
        with pytest.raises(EngineError, match=f"expected {np.dtype(dtype)} 2x2, got float64"):
            session.run({"x": np.zeros((2, 2))})

    assert output.dtype == dtype
    assert np.array_equal(output, value)


def test_a_failed_inference_says_what_tensorrt_logged_and_the_next_one_runs(load, static, trt):
    with load(static) as session:
        session.run(x())
        session.run(x())
        session.run(x())
        for step in range(3):
            # With a graph in place TensorRT is not asked any more; a failure while it is, is one of the launch.
            trt.cuda.fail["launch_graph"] = (f"cudaErrorInvalidValue {step}", False)
            with pytest.raises(EngineError, match="here: launch_graph: expected success, got cudaErrorInvalidValue"):
                session.run(x())
            trt.refuse["execute_async_v3"] = "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime"
            with pytest.raises(
                EngineError, match=r"^here: expected a run, got: .*Error Code 1: Cuda Runtime; run again"
            ):
                session.run(x())
            assert [session.run(x(v))["y"][0, 0, 0] for v in (1, 2, 3)] == [3, 5, 7]

    assert trt.cuda.leaks == {}


@pytest.mark.parametrize("call", ["current", "copy_to_device", "copy_to_host", "synchronize"])
def test_a_cuda_call_that_fails_once_costs_one_run(load, static, cuda, call):
    with load(static, graphs=False) as session:
        cuda.fail[call] = ("cudaErrorInvalidValue (1)", False)
        with pytest.raises(EngineError, match=f"here: {call}: expected success, got cudaErrorInvalidValue"):
            session.run(x())
        assert session.run(x(2))["y"][0, 0, 0] == 5

    assert cuda.leaks == {}


def test_after_a_failure_shapes_and_addresses_are_told_anew(load, static, trt):
    with load(static) as session:
        session.run(x())
        trt.refuse["execute_async_v3"] = "no"
        session.run(x())  # not recorded, so call by call
        trt.refuse["execute_async_v3"] = "no"
        with pytest.raises(EngineError, match="expected a run, got: no"):
            session.run(x())
        trt.calls.clear()
        session.run(x())
        session.run(x())

    assert trt.calls.count("set_input_shape") == 1
    assert trt.calls.count("set_tensor_address") == 2


def test_a_failed_change_of_shape_is_made_up_for_by_the_next_run(load, dynamic, trt):
    with load(dynamic) as session:
        session.run(image(LOW))
        trt.refuse["set_input_shape"] = "no"
        with pytest.raises(EngineError, match="expected input 'image' to take"):
            session.run(image(HIGH))
        assert session.run(image(LOW, 2))["total"].tolist() == [2 * 3 * 8 * 8]
        assert session.run(image(HIGH, 1))["total"].tolist() == [3 * 32 * 32] * 4


@pytest.mark.parametrize("call", ["current", "synchronize", "launch_graph"])
def test_after_a_sticky_error_the_session_is_dead_and_says_to_start_the_process_anew(load, static, cuda, call):
    session = load(static)
    for _ in range(3):
        session.run(x())
    cuda.fail[call] = ("cudaErrorIllegalAddress (700)", True)
    with pytest.raises(EngineError, match=r"IllegalAddress.*end the process and start it anew"):
        session.run(x())
    for _ in range(2):
        with pytest.raises(EngineError, match=r"expected a GPU that works, got an earlier failure: .*IllegalAddress"):
            session.run(x())

    session.close()

    assert cuda.log[-3:] == ["context", "engine", "runtime"]


def test_a_sticky_error_behind_a_refused_inference_is_found(load, static, cuda, trt):
    with load(static, graphs=False) as session:
        cuda.lost = ""
        trt.refuse["execute_async_v3"] = "Cuda failure: an illegal memory access was encountered"
        cuda.fail["synchronize"] = ("cudaErrorIllegalAddress (700)", True)
        with pytest.raises(EngineError, match="expected a run, got"):
            session.run(x())
        with pytest.raises(EngineError, match="expected a GPU that works"):
            session.run(x())


def test_all_is_given_back_in_order_and_once(load, dynamic, cuda):
    session = load(dynamic)
    for _ in range(3):
        session.run(image(LOW))

    gc.disable()  # nothing waits for the collector
    try:
        session.close()
        session.close()
    finally:
        gc.enable()

    assert cuda.log == ["graph", "context", "engine", "runtime", *["memory"] * 4, "stream"]
    assert cuda.leaks == {}
    with pytest.raises(EngineError, match="expected an open session, got a closed one"):
        session.run(image(LOW))


def test_an_error_of_any_other_kind_inside_the_with_block_gives_all_back_too(load, static, cuda):
    static.function = lambda _: {"y": 1 / 0}

    with pytest.raises(ZeroDivisionError), load(static, timed=True) as session:
        session.run(x())

    assert cuda.leaks == {}


@pytest.mark.parametrize(
    "call", ["make_stream", "allocate", "allocate_pinned", "make_event", "deserialize_cuda_engine", "context"]
)
def test_a_session_that_cannot_be_opened_leaves_nothing_behind(load, static, cuda, trt, call):
    if call == "context":
        trt.refuse["create_execution_context"] = "out of memory"
    elif call == "deserialize_cuda_engine":
        trt.refuse[call] = "no"
    else:
        cuda.fail[call] = ("cudaErrorMemoryAllocation (2)", False)

    with pytest.raises(EngineError, match=r"^here: .*(no; |free memory)"):
        load(static, timed=True)

    assert cuda.leaks == {}


def test_memory_that_cannot_be_given_back_is_an_error_after_the_rest_was(load, static, cuda):
    session = load(static)
    cuda.fail["free_pinned"] = ("cudaErrorInvalidValue (1)", False)

    with pytest.raises(EngineError, match="free_pinned"):
        session.close()

    assert cuda.leaks == {"pinned": 1}
    session.close()


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("The engine plan file is generated on an incompatible device, expecting compute 8.7 got 8.9", "another GPU"),
        ("The engine plan file is not compatible with this version of TensorRT, expecting 8.5 got 10.3", "10.3.0"),
        ("Serialization assertion failed.Version tag does not match. Note: Current Version: 213", "another TensorRT"),
        ("Magic tag does not match", "no TensorRT engine"),
        ("getPluginCreator could not find plugin: EfficientNMS_TRT version: 1", "load the plugin's library"),
        ("Requested amount of GPU memory: out of memory", "free memory"),
        ("assertion failed", "may be truncated"),
    ],
)
def test_an_engine_that_does_not_load_is_one_line_with_the_remedy(load, static, trt, line, remedy):
    trt.refuse["deserialize_cuda_engine"] = f"[runtime.cpp]\n {line}\n"

    with pytest.raises(EngineError, match=r"expected an engine that TensorRT 10\.3\.0 can load, got") as caught:
        load(static)

    message = str(caught.value)
    assert line in message
    assert remedy in message.partition(line)[2]
    assert "\n" not in message
    assert "nobody asked" not in message


def test_a_runtime_that_cannot_be_made_is_one_line(load, static, trt, cuda):
    trt.refuse["Runtime"] = ""

    with pytest.raises(EngineError, match=r"expected a TensorRT runtime, got: .*nullptr; look whether"):
        load(static)

    assert cuda.leaks == {}


def test_a_context_that_cannot_be_made_is_an_error(load, static, trt):
    trt.refuse["create_execution_context"] = "out of memory"

    with pytest.raises(EngineError, match="expected an execution context, got none: out of memory; free memory"):
        load(static)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"location": "HOST"}, "tensor 'x': expected a tensor in device memory, got a shape tensor"),
        ({"form": "CHW32"}, "expected the plain row-major format, got CHW32"),
        ({"dtype": "INT4"}, "expected whole bytes a value, got INT4"),
    ],
)
def test_what_a_plain_array_cannot_hold_is_refused_at_once(load, plan, tensor, cuda, change, message):
    odd = plan((tensor("x", (1, 8), **change), tensor("y", (1, 8), is_input=False)), lambda i: {"y": i["x"]})

    with pytest.raises(EngineError, match=message):
        load(odd)

    assert cuda.leaks == {}


@pytest.mark.parametrize("unknown", ["negative", "bad dims"])
def test_an_output_whose_shape_depends_on_values_is_refused(load, plan, tensor, bad_dims, unknown):
    shape = (-1, 2) if unknown == "negative" else bad_dims
    outputs = (tensor("x", (4,)), tensor("y", (-1, 2), is_input=False))

    with pytest.raises(EngineError, match="output 'y': expected a shape that follows from the inputs' shapes"):
        load(plan(outputs, lambda _: {}, lambda _: {"y": shape}))


def test_another_profile_brings_its_own_shapes(load, plan, tensor):
    profiles = (((1, 2), (1, 2), (1, 4)), ((8, 2), (8, 2), (8, 4)))
    tensors = (tensor("x", (-1, -1), profiles=profiles), tensor("y", (-1, -1), is_input=False))
    two = plan(tensors, lambda i: {"y": i["x"]}, profiles=2)

    with load(two, profile=1) as session:
        assert session.run({"x": np.ones((8, 3), np.float32)})["y"].shape == (8, 3)
        with pytest.raises(EngineError, match="expected 8x2 to 8x4, got 1x2"):
            session.run({"x": np.ones((1, 2), np.float32)})
    with pytest.raises(EngineError, match="expected an optimization profile 0-1, got 2"):
        load(two, profile=2)


def test_a_profile_that_is_taken_is_an_error(load, plan, tensor, trt, cuda):
    profiles = (((1,), (1,), (4,)),) * 2
    tensors = (tensor("x", (-1,), profiles=profiles), tensor("y", (-1,), is_input=False))
    trt.refuse["set_optimization_profile_async"] = "in use by another context"

    with pytest.raises(EngineError, match="expected optimization profile 1 to be free, got: in use by another context"):
        load(plan(tensors, lambda i: {"y": i["x"]}, profiles=2), profile=1)

    assert cuda.leaks == {}


def test_two_threads_at_once_are_told_apart(load, static):
    told, inside, go_on = [], threading.Event(), threading.Event()
    whole = static.function

    def slow(inputs):
        inside.set()
        go_on.wait(10)
        return whole(inputs)

    static.function = slow
    with load(static) as session:
        first = threading.Thread(target=lambda: told.append(session.run(x(2))["y"][0, 0, 0]))
        first.start()
        inside.wait(10)
        with pytest.raises(EngineError, match="expected one thread at a time, got two; open a session for each"):
            session.run(x())
        go_on.set()
        first.join(10)

        assert told == [5]
        assert session.run(x(3))["y"][0, 0, 0] == 7


def test_one_thread_after_another_may_run_it(load, static):
    results = []
    with load(static) as session:
        for value in range(3):
            thread = threading.Thread(target=lambda v=value: results.append(session.run(x(v))["y"][0, 0, 0]))
            thread.start()
            thread.join(10)

    assert results == [1, 3, 5]


def test_a_timed_session_tells_what_the_device_took(load, static, cuda):
    with load(static, timed=True) as session:
        assert session.device_ms is None
        for _ in range(3):
            session.run(x())
            assert session.device_ms == 2.5
    assert cuda.leaks == {}
    with load(static) as session:
        session.run(x())
        assert session.device_ms is None


@pytest.mark.parametrize(("high", "stream"), [(True, 78), (False, 77)])
def test_the_stream_has_the_priority_that_was_asked_for(load, static, cuda, high, stream):
    with load(static, high_priority=high):
        assert list(cuda.streams) == [stream]


def test_a_tensorrt_that_records_graphs_itself_is_left_to_do_so(load, static, trt, cuda):
    trt.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")

    for graphs in (True, False):
        with load(static, graphs=graphs) as session:
            assert [session.run(x(value))["y"][0, 0, 0] for value in (1, 2, 3)] == [3, 5, 7]

    assert trt.configs[0].cuda_graph_strategy is trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert trt.configs[1:] == [None]
    assert "begin_capture" not in cuda.calls


def test_an_engine_for_dla_gets_its_core(load, static, trt):
    load(static, dla_core=1).close()
    load(static).close()

    assert trt.dla_cores == [1, None]


def test_an_engine_that_brings_its_runtime_is_allowed_to_only_when_asked(load, static, trt):
    load(static, host_code=True).close()
    load(static).close()
    assert trt.host_code == [True, False]

    trt.Runtime = lambda _: object()  # that of 8.5
    with pytest.raises(EngineError, match=r"here: expected a TensorRT of 8\.6 or later for .*; build the engine again"):
        load(static, host_code=True)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(EngineError, match="expected an engine file, got No such file"):
        open_trt(tmp_path / "model.engine")


def test_without_a_device_tensorrt_is_never_touched(tmp_path, monkeypatch):
    (tmp_path / "model.engine").write_bytes(PLAN)

    def missing(device):
        raise MissingError(f"CUDA device {device}: expected one that can be used, got none")

    def touched(name):
        raise AssertionError(name)

    monkeypatch.setattr(module, "open_cuda", missing)
    monkeypatch.setattr(module.importlib, "import_module", touched)

    with pytest.raises(MissingError, match="CUDA device 3"):
        open_trt(tmp_path / "model.engine", TrtSettings(device=3))


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt_rtx"])
def test_a_file_is_opened_by_the_package_that_is_asked_for(tmp_path, monkeypatch, trt, cuda, static, package):
    (tmp_path / "model.engine").write_bytes(PLAN)
    trt.plans[PLAN] = static
    modules = {package: trt}

    def import_module(name):
        if name not in modules:
            raise ImportError(f"No module named {name!r}")
        return modules[name]

    monkeypatch.setattr(module, "open_cuda", lambda _: cuda)
    monkeypatch.setattr(module.importlib, "import_module", import_module)

    with open_trt(tmp_path / "model.engine", package=package) as session:
        assert session.run(x(2))["y"][0, 0, 0] == 5
    modules.clear()
    with pytest.raises(MissingError, match=rf"expected the package {package} to load, .*pip install .avcompress\["):
        open_trt(tmp_path / "model.engine", package=package)
