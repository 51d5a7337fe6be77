"""The kernels of the GPU, run on the CPU through their own source, against NumPy: equal to the bit."""

import ctypes
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avcompress.recipe import Detection, Segmentation
from avcompress.spec import EngineError
from engines.postprocess import postprocess
from engines.session import InputSpec
from engines.tensorrt import device_postprocess as module
from engines.tensorrt.device_postprocess import Output, attach_postprocess, mixing, open_device_postprocess
from engines.tensorrt.kernels import SOURCE
from engines.tensorrt.session import TrtSession, TrtSettings

HERE = Path(__file__).parent
FLAGS = ("-std=c++20", "-O1", "-ffp-contract=off", "-pthread", "-shared", "-fPIC", "-Wall", "-Werror")
SIZE = (32, 64)
ANCHORS = 4 * 8 + 2 * 4
SEGMENTATION = Segmentation(kind="segmentation")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, which runs the kernels on the CPU")


def compile_on_cpu(folder):
    """The kernels' own source by g++: `start(name, arguments, blocks, threads)`."""
    kernels = re.split(r'extern "C" __global__ void (\w+)', SOURCE.read_text())[1:]
    table = [
        f'if (!std::strcmp(name, "{name}")) return launch({name}, {waits:d}, arguments, blocks, threads);'
        for name, waits in zip(kernels[::2], ("__syncthreads" in body for body in kernels[1::2]), strict=True)
    ]
    (folder / "kernels.cpp").write_text(
        f'#include "{HERE / "cuda_on_cpu.h"}"\n#include "{SOURCE}"\n'
        'extern "C" void start(const char* name, void** arguments, unsigned blocks, unsigned threads) {\n'
        + "\n".join(table)
        + "\nstd::abort();\n}\n"
    )
    command = ["g++", *FLAGS, "-o", str(folder / "kernels.so"), str(folder / "kernels.cpp")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


class KernelsOnCpu:
    """Submits to the streams of a FakeCuda, whose device memory is the host's."""

    def __init__(self, library, cuda):
        self.library, self.cuda, self.closed, self.launched = library, cuda, 0, []

    def launch(self, name, blocks, threads, arguments, stream):
        assert self.cuda.depth, "the device is not current"
        assert blocks > 0, "CUDA refuses an empty grid"
        values = [np.array(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))

        def run():
            self.launched.append(name)
            assert values  # they live as long as the submitted work
            self.library.start(name.encode(), places, blocks, threads)

        self.cuda.streams[stream].submit(run)

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_on_cpu(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def run(library, cuda):
    """(output, task, size) -> what the device makes of it; checks that nothing leaks."""

    def on_device(output, task, size):
        stream = cuda.make_stream(high_priority=True)
        address = cuda.allocate(output.nbytes)
        cuda.memory(address, output.nbytes)[:] = np.ascontiguousarray(output).view(np.uint8).ravel()
        kernels = KernelsOnCpu(library, cuda)
        found = open_device_postprocess(cuda, kernels, (Output("y", output.shape), task, size), stream)
        try:
            for _ in range(2):  # the second run finds what the first left behind
                found.submit({"y": address}, stream)
                cuda.synchronize(stream)
            return postprocess(found.outputs(), task, size)
        finally:
            found.close()
            cuda.free(address)
            cuda.destroy_stream(stream)
            assert not cuda.leaks
            assert kernels.closed == 1

    with cuda.current():
        yield on_device


def detector(decoder, **changes):
    chosen = {"strides": (8, 16), "score_threshold": 0.25, "nms_iou": 0.5, **changes}
    return Detection(kind="detection", decode=decoder, **chosen)


def shape_of(decoder, classes=3):
    if decoder == "yolov8":
        return (1, 4 + classes, ANCHORS)
    return (1, 3 * ANCHORS if decoder == "yolov5" else ANCHORS, classes + (4 if decoder == "ltrb" else 5))


def raw_output(decoder, seed, coarse):
    """Boxes that overlap, scores of every size; coarse ones tie."""
    rng = np.random.default_rng(seed)
    output = rng.normal(0, 1, shape_of(decoder)).astype(np.float32)
    rows = output[0].T if decoder == "yolov8" else output[0]
    if decoder in {"yolov5", "yolov8"}:
        rows[:, :4] = rng.uniform(4, 40, rows[:, :4].shape)
    if decoder == "ltrb":
        rows[:, :4] = np.abs(rows[:, :4]) * 2
    else:
        rows[:, 4:] = rng.random(rows[:, 4:].shape) ** 0.5
    return np.round(output * 4) / 4 if coarse else output


def same(found, expected):
    for name in ("xyxy", "scores", "labels"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist(), name


@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "with ties"])
@pytest.mark.parametrize("decoder", ["yolox", "yolov5", "yolov8", "ltrb"])
def test_boxes_are_numpys_to_the_bit(run, decoder, coarse):
    task, several = detector(decoder), 0
    for seed in range(8):
        output = raw_output(decoder, seed, coarse)
        expected = postprocess({"y": output}, task, SIZE)
        same(run(output, task, SIZE), expected)
        several += len(expected.scores) > 3
    assert several > 4


@pytest.mark.parametrize("most", [1, 2, 7, 16])  # 16: what is written behind its boxes falls on the scores
def test_no_more_boxes_than_asked_for_and_the_best_ones(run, most):
    output, task = raw_output("yolox", 0, coarse=True), detector("yolox", nms_iou=0.9, max_detections=most)

    found = run(output, task, SIZE)

    same(found, postprocess({"y": output}, task, SIZE))
    assert len(found.scores) == most


def test_nothing_above_the_threshold_is_no_boxes(run):
    assert run(np.zeros(shape_of("yolox"), np.float32), detector("yolox"), SIZE).xyxy.shape == (0, 4)


def test_absurd_sizes_are_cut_as_numpy_cuts_them(run):
    output = np.full(shape_of("yolox"), 1e30, np.float32)
    output[:, ::2, :4] = -1e30
    output[:, :, 4:] = 1

    same(run(output, detector("yolox"), SIZE), postprocess({"y": output}, detector("yolox"), SIZE))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    decoder=st.sampled_from(["yolox", "yolov5", "yolov8", "ltrb"]),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 30.0, 100.0]),
    iou=st.floats(0, 1),
    threshold=st.sampled_from([0.0, 0.001, 0.5]),
)
def test_boxes_are_numpys_whatever_the_numbers(run, decoder, seed, scale, iou, threshold):
    rng = np.random.default_rng(seed)
    output = (rng.normal(0, scale, shape_of(decoder)) * rng.choice([0, 1, 1, 1], shape_of(decoder))).astype(np.float32)
    task = detector(decoder, nms_iou=iou, score_threshold=threshold)

    same(run(output, task, SIZE), postprocess({"y": output}, task, SIZE))


def test_a_pair_on_the_edge_of_the_threshold_is_decided_as_numpy_decides(run):
    rng, kept = np.random.default_rng(0), []
    for _ in range(150):
        centers, sizes = rng.uniform(18, 22, (2, 2)), rng.uniform(8, 12, (2, 2))
        output = np.zeros(shape_of("yolov8"), np.float32)
        output[0, :2, :2], output[0, 2:4, :2], output[0, 4, :2] = centers, sizes, [0.9, 0.8]
        low, high = output[0, :2, :2] - output[0, 2:4, :2] / 2, output[0, :2, :2] + output[0, 2:4, :2] / 2
        shared = np.prod(high.min(axis=1) - low.max(axis=1))
        iou = shared / (np.prod(high - low, axis=0).sum() - shared)
        task = detector("yolov8", nms_iou=float(np.nextafter(iou, np.float32(rng.integers(2)))))
        expected = postprocess({"y": output}, task, SIZE)
        same(run(output, task, SIZE), expected)
        kept.append(len(expected.scores))
    assert 20 < kept.count(1) < 130


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 3, 2), (0, 0, 4), (0, 9, 7)], ids=["a box", "objectness", "the last class"])
def test_values_that_are_not_finite_are_the_same_error(run, value, place):
    output = raw_output("yolox", 0, coarse=False)
    output[place] = output[0, 20, 1] = value

    with pytest.raises(EngineError) as expected:
        postprocess({"y": output}, detector("yolox"), SIZE)
    with pytest.raises(EngineError, match="got 2 of 320 NaN or infinite") as found:
        run(output, detector("yolox"), SIZE)
    assert str(found.value) == str(expected.value)


# --- class maps


def by_formula(logits, size):
    """Bilinear, in float64 but rounded where OpenCV 5 rounds; argmax."""
    logits = logits[0]
    for axis, wanted in ((2, size[1]), (1, size[0])):
        first, part = mixing(logits.shape[axis], wanted)
        second = np.minimum(first + 1, logits.shape[axis] - 1)
        a, b = logits.take(first, axis=axis), logits.take(second, axis=axis)
        part = part[:, None] if axis == 1 else part
        logits = (a.astype(np.float64) + (b - a).astype(np.float64) * part).astype(np.float32)
    return logits.argmax(axis=0)


sides = st.integers(1, 9)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), shape=st.tuples(st.just(1), st.integers(2, 6), sides, sides), more=st.tuples(sides, sides))
def test_a_class_map_is_the_argmax_of_the_resized_logits(run, data, shape, more):
    logits = data.draw(hnp.arrays(np.float32, shape, elements=st.integers(-9, 9)))
    size = (shape[2] + more[0] - 1, shape[3] + more[1] - 1)

    assert np.array_equal(run(logits, SEGMENTATION, size), by_formula(logits, size))


@pytest.mark.skipif(int(cv2.__version__.split(".")[0]) < 5, reason="OpenCV 4 resizes by another formula")
@pytest.mark.parametrize("shape", [(45, 60), (90, 120), (30, 53), (45, 120), (90, 61)])
def test_a_class_map_is_that_of_the_host(run, shape):
    logits = np.random.default_rng(0).normal(0, 1, (1, 12, *shape)).astype(np.float32)

    found = run(logits, SEGMENTATION, (90, 120))

    assert found.dtype == np.uint8
    assert np.array_equal(found, postprocess({"y": logits}, SEGMENTATION, (90, 120)))


def test_logits_that_are_not_finite_are_the_same_error(run):
    logits = np.zeros((1, 2, 5, 40), np.float32)
    logits[0, 1, 2, 3:6] = np.nan

    with pytest.raises(EngineError, match="output 'y': expected finite values, got 3 of 400 NaN or infinite"):
        run(logits, SEGMENTATION, (5, 40))


# --- behind an engine


@pytest.fixture
def open_session(trt, cuda, plan, tensor, library, monkeypatch):
    """A session whose engine returns its input, x 1x40x8 or of another shape and type."""
    monkeypatch.setattr(module, "open_kernels", partial(KernelsOnCpu, library))

    def run(shape=(1, 40, 8), dtype="FLOAT", **changes):
        names = changes.pop("outputs", ("y",))
        tensors = (
            tensor("x", shape, dtype, **changes),
            *(tensor(name, shape, dtype, is_input=False) for name in names),
        )
        trt.plans[b"plan"] = plan(tensors, lambda inputs: dict.fromkeys(names, inputs["x"]))
        return TrtSession(trt, cuda, b"plan", TrtSettings(), "here")

    return run


def test_a_session_returns_what_was_found_run_after_run_by_a_graph_too(open_session, cuda):
    task = detector("yolox")
    with open_session() as session:
        attach_postprocess(session, task, SIZE)
        for seed in range(4):  # call by call, recorded, launched, launched
            output = raw_output("yolox", seed, coarse=False)
            outputs = session.run({"x": output})
            assert sorted(outputs) == ["labels", "scores", "xyxy"]
            same(postprocess(outputs, task, SIZE), postprocess({"y": output}, task, SIZE))
        assert session.graph_note == ""
        assert "launch_graph" in cuda.calls
    assert not cuda.leaks


def test_what_was_found_is_the_callers_own(open_session):
    task = detector("yolox")
    with open_session() as session:
        attach_postprocess(session, task, SIZE)
        first = session.run({"x": raw_output("yolox", 0, coarse=False)})["scores"]
        kept = first.copy()
        session.run({"x": raw_output("yolox", 1, coarse=False)})
        assert np.array_equal(first, kept)


def test_a_session_returns_a_class_map(open_session):
    logits = np.random.default_rng(0).normal(0, 1, (1, 3, 4, 5)).astype(np.float32)
    with open_session(logits.shape) as session:
        attach_postprocess(session, SEGMENTATION, (4, 5))
        assert np.array_equal(postprocess(session.run({"x": logits}), SEGMENTATION, (4, 5)), logits[0].argmax(axis=0))


def test_after_a_run_with_values_that_are_not_finite_the_next_one_is_sound(open_session):
    task = detector("yolox")
    output = raw_output("yolox", 0, coarse=False)
    with open_session() as session:
        attach_postprocess(session, task, SIZE)
        with pytest.raises(EngineError, match="here: output 'y': expected finite values, got 320 of 320"):
            session.run({"x": np.full_like(output, np.nan)})
        same(postprocess(session.run({"x": output}), task, SIZE), postprocess({"y": output}, task, SIZE))


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"shape": (1, 41, 8)}, r"expected \(1, 40, 5 \+ classes\)"),
        ({"dtype": "HALF"}, "expected float32 to post-process on the device, got float16"),
        ({"outputs": ("y", "z")}, "expected one, got 'y', 'z'"),
        ({"shape": (-1, 40, 8), "profiles": (((1, 40, 8),) * 3,)}, "expected fixed input shapes .*, got shapes that"),
    ],
)
def test_an_engine_whose_output_does_not_fit_is_an_error_and_the_session_goes_on(open_session, cuda, engine, expected):
    with open_session(**engine) as session:
        with pytest.raises(EngineError, match=expected):
            attach_postprocess(session, detector("yolox"), SIZE)
        rows = engine.get("shape", (1, 40, 8))[1]
        dtype = np.float16 if "dtype" in engine else np.float32
        assert session.run({"x": np.ones((1, rows, 8), dtype)})["y"].shape == (1, rows, 8)
    assert not cuda.leaks


def test_a_second_postprocessing_is_an_error(open_session):
    with open_session() as session:
        attach_postprocess(session, detector("yolox"), SIZE)
        with pytest.raises(EngineError, match="nothing attached yet, got something attached"):
            attach_postprocess(session, detector("yolox"), SIZE)


def test_memory_that_runs_out_is_given_back(library, cuda):
    kernels = KernelsOnCpu(library, cuda)
    output = Output("y", shape_of("yolox"))
    with cuda.current():
        stream = cuda.make_stream(high_priority=True)
        for call in ("allocate", "allocate_pinned", "copy_to_device"):
            cuda.fail[call] = ("cudaErrorMemoryAllocation (2)", False)
            with pytest.raises(EngineError, match="free memory on the GPU"):
                open_device_postprocess(cuda, kernels, (output, detector("yolox"), SIZE), stream)
        cuda.destroy_stream(stream)
    assert not cuda.leaks
    assert kernels.closed == 3


def test_the_description_of_an_output_is_read_from_the_session(open_session):
    seen = {}
    with open_session() as session, pytest.raises(EngineError, match="stop"):
        session.attach(lambda _cuda, _stream, outputs: seen.update(outputs) or stop())
    assert seen == {"y": InputSpec((1, 40, 8), np.dtype(np.float32))}


def stop():
    raise EngineError("stop")
