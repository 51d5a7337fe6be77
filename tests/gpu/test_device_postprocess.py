"""Post-processing on a real device, without an engine before it: equal to NumPy's. Skipped where there is none."""

import contextlib

import cv2
import numpy as np
import pytest

from avcompress.recipe import Detection, Segmentation
from avcompress.spec import MissingError
from engines.postprocess import postprocess
from engines.tensorrt.cuda import open_cuda
from engines.tensorrt.device_postprocess import Output, open_device_postprocess
from engines.tensorrt.kernels import open_kernels

pytestmark = pytest.mark.gpu
SIZE = (416, 416)
ANCHORS = 52 * 52 + 26 * 26 + 13 * 13


@pytest.fixture(scope="module")
def cuda():
    try:
        return open_cuda()
    except MissingError as error:
        pytest.skip(str(error))


def on_device(cuda, outputs, task, size):
    """What the device makes of outputs of one shape, run after run."""
    with cuda.current(), contextlib.ExitStack() as held:
        stream = cuda.make_stream(high_priority=True)
        held.callback(cuda.destroy_stream, stream)
        address, pinned = cuda.allocate(outputs[0].nbytes), cuda.allocate_pinned(outputs[0].nbytes)
        held.callback(cuda.free, address)
        held.callback(cuda.free_pinned, pinned)
        what = (Output("y", outputs[0].shape), task, size)
        found = open_device_postprocess(cuda, open_kernels(cuda), what, stream)
        held.callback(found.close)
        for output in outputs:
            pinned[:] = np.ascontiguousarray(output).view(np.uint8).ravel()
            cuda.copy_to_device(address, pinned, stream)
            found.submit({"y": address}, stream)
            cuda.synchronize(stream)
            yield postprocess(found.outputs(), task, size)


def raw_output(decoder, seed, ties):
    rng = np.random.default_rng(seed)
    first = 5 if decoder == "yolox" else 4
    rows = rng.normal(0, 1, (ANCHORS, first + 80)).astype(np.float32)
    if decoder == "yolov8":
        rows[:, :4] = rng.uniform(10, 200, (ANCHORS, 4))
    if decoder == "ltrb":
        rows[:, :4] = np.abs(rows[:, :4]) * 3
    else:
        rows[:, 4:] = rng.random((ANCHORS, first - 4 + 80)) ** 8
    rows = np.round(rows * 16) / 16 if ties else rows
    return np.ascontiguousarray(rows.T if decoder == "yolov8" else rows)[None]


@pytest.mark.parametrize("ties", [False, True], ids=["fine", "with ties"])
@pytest.mark.parametrize("decoder", ["yolox", "yolov8", "ltrb"])
@pytest.mark.parametrize("most", [100, 1000])
def test_boxes_are_numpys_to_the_bit(cuda, decoder, ties, most):
    task = Detection(kind="detection", decode=decoder, score_threshold=0.05, max_detections=most)
    outputs = [raw_output(decoder, seed, ties) for seed in range(5)]

    for output, found in zip(outputs, on_device(cuda, outputs, task, SIZE), strict=True):
        expected = postprocess({"y": output}, task, SIZE)
        assert len(expected.scores) == most
        for name in ("xyxy", "scores", "labels"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.skipif(int(cv2.__version__.split(".")[0]) < 5, reason="OpenCV 4 resizes by another formula")
@pytest.mark.parametrize("shape", [(360, 480), (180, 240), (45, 60)])
def test_class_maps_are_numpys(cuda, shape):
    task = Segmentation(kind="segmentation")
    logits = np.random.default_rng(0).normal(0, 3, (1, 12, *shape)).astype(np.float32)

    (found,) = on_device(cuda, [logits], task, (360, 480))

    assert np.array_equal(found, postprocess({"y": logits}, task, (360, 480)))
