import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avcompress.recipe import Detection, Segmentation
from avcompress.spec import EngineError
from engines.ort import open_ort
from engines.postprocess import Detections, check_output, decode, nms, postprocess, segment


def task(decoder, **changes):
    return Detection(kind="detection", decode=decoder, **{"strides": (8, 16), "score_threshold": 0.25, **changes})


def detections(boxes, scores, labels):
    xyxy = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Detections(xyxy, np.asarray(scores, np.float32), np.asarray(labels, np.int64))


# --- decode: an input of 16x32 has 2x4 cells of stride 8 and 1x2 of stride 16, 10 in all


def test_yolox_adds_the_cell_and_scales_by_the_stride():
    output = np.zeros((1, 10, 7), np.float32)
    output[0, 6] = [0.5, 0.25, math.log(2), 0, 0.8, 0.1, 0.5]  # stride 8, row 1, column 2
    output[0, 9] = [0, 0, 0, math.log(0.5), 0.5, 0.9, 0.2]  # stride 16, row 0, column 1

    found = decode({"y": output}, task("yolox"), (16, 32))

    # centre (2.5, 1.25) * 8 = (20, 10), size (2, 1) * 8; centre (1, 0) * 16, size (1, 0.5) * 16
    assert np.allclose(found.xyxy, [[12, 6, 28, 14], [8, -4, 24, 4]])
    assert np.allclose(found.scores, [0.8 * 0.5, 0.5 * 0.9])
    assert found.labels.tolist() == [1, 0]
    assert (found.xyxy.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)


def test_yolov5_is_in_pixels_already_with_several_anchors_a_cell():
    output = np.zeros((1, 30, 6), np.float32)
    output[0, 29] = [10, 20, 4, 6, 0.5, 1.0]

    found = decode({"y": output}, task("yolov5"), (16, 32))

    assert found.xyxy.tolist() == [[8, 17, 12, 23]]
    assert found.scores.tolist() == [0.5]


def test_yolov8_has_channels_first_and_no_objectness():
    output = np.zeros((1, 6, 10), np.float32)
    output[0, :, 3] = [10, 20, 4, 6, 0.25, 0.75]

    found = decode({"y": output}, task("yolov8"), (16, 32))

    assert found.xyxy.tolist() == [[8, 17, 12, 23]]
    assert found.scores.tolist() == [0.75]
    assert found.labels.tolist() == [1]


def test_ltrb_measures_from_the_centre_of_the_cell_in_strides():
    output = np.full((1, 10, 6), -1000, np.float32)
    output[0, 5] = [1, 0.5, 2, 1.5, -20, 0]  # stride 8, row 1, column 1: centre (12, 12)
    output[0, 8] = [0, 0, 1, 1, math.log(3), -5]  # stride 16, row 0, column 0: centre (8, 8)

    found = decode({"y": output}, task("ltrb"), (16, 32))

    assert np.allclose(found.xyxy, [[4, 8, 28, 24], [8, 8, 24, 24]])
    assert np.allclose(found.scores, [0.5, 0.75])
    assert found.labels.tolist() == [1, 0]


def test_a_size_that_is_no_multiple_of_the_stride_has_a_partial_last_cell():
    output = np.zeros((1, 6 + 2, 6), np.float32)  # 9x24: 2x3 cells of stride 8, 1x2 of stride 16
    output[0, 5] = [0, 0, 0, 0, 1, 1]

    found = decode({"y": output}, task("yolox"), (9, 24))

    assert found.xyxy.tolist() == [[12, 4, 20, 12]]


def test_a_score_at_the_threshold_stays():
    output = np.zeros((1, 10, 6), np.float32)
    output[0, :3, 4:] = [[0.5, 0.5], [0.5, 0.49], [1, 0.25]]

    assert decode({"y": output}, task("yolox"), (16, 32)).scores.tolist() == [0.25, 0.25]


def test_nothing_above_the_threshold_is_no_boxes():
    found = postprocess({"y": np.zeros((1, 10, 6), np.float32)}, task("yolox"), (16, 32))

    assert found.xyxy.shape == (0, 4)
    assert found.labels.shape == (0,)


def test_absurd_sizes_neither_overflow_nor_warn():
    output = np.full((1, 10, 6), 1e30, np.float32)
    output[:, :, 4:] = 1

    found = postprocess({"y": output}, task("yolox"), (16, 32))

    assert np.isfinite(found.xyxy).all()


@pytest.mark.parametrize(
    ("decoder", "shape", "expected"),
    [
        ("yolox", (1, 11, 7), r"\(1, 10, 5 \+ classes\) for decode: yolox, strides \(8, 16\) and input 16x32"),
        ("yolox", (1, 10, 5), r"\(1, 10, 5 \+ classes\)"),
        ("yolox", (2, 10, 7), r"\(1, 10, 5 \+ classes\)"),
        ("yolox", (10, 7), r"got \(10, 7\)"),
        ("yolov5", (1, 25, 7), r"\(1, 10, 5 \+ classes\)"),
        ("yolov5", (1, 0, 7), r"\(1, 10, 5 \+ classes\)"),
        ("yolov8", (1, 10, 6), r"\(1, 4 \+ classes, 10\)"),
        ("ltrb", (1, 10, 4), r"\(1, 10, 4 \+ classes\)"),
    ],
)
def test_a_shape_that_does_not_fit_the_decoder_is_an_error(decoder, shape, expected):
    with pytest.raises(EngineError, match=expected) as caught:
        decode({"y": np.zeros(shape, np.float32)}, task(decoder), (16, 32))

    assert f"got {shape}" in str(caught.value)


@pytest.mark.parametrize(
    ("decoder", "shape"), [("yolox", (1, 10, 8)), ("yolov5", (1, 30, 8)), ("yolov8", (1, 7, 10)), ("ltrb", (1, 10, 7))]
)
def test_a_detector_has_exactly_the_recipes_classes(decoder, shape):
    check_output("y", shape, task(decoder), (16, 32), 3)
    for classes in (2, 4):
        with pytest.raises(EngineError, match=rf"expected exactly the {classes} classes .*, got 3; "):
            check_output("y", shape, task(decoder), (16, 32), classes)


def test_a_segmenter_may_have_a_background_beside_the_recipes_classes_but_not_fewer():
    for classes in (11, 12):
        check_output("y", (1, 12, 8, 8), Segmentation(kind="segmentation"), (16, 16), classes)
    with pytest.raises(EngineError, match=r"expected at least the 13 classes .*, got 12; "):
        check_output("y", (1, 12, 8, 8), Segmentation(kind="segmentation"), (16, 16), 13)


def test_shapes_that_no_decoder_takes_are_found_before_the_network_runs():
    with pytest.raises(EngineError, match=r"set task\.decode and task\.strides"):
        check_output("y", (1, 11, 8), task("yolox"), (16, 32), 3)
    with pytest.raises(EngineError, match=r"set preprocess\.size and task\.kind"):
        check_output("y", (1, 11, 8), Segmentation(kind="segmentation"), (16, 32), 3)


@pytest.mark.parametrize("shape", [(), (1, -1, 8)])
def test_what_is_not_known_of_a_shape_is_not_checked(shape):
    check_output("y", shape, task("yolox"), (16, 32), 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_an_error_naming_the_output(value):
    output = np.zeros((1, 10, 6), np.float32)
    output[0, 3, 2] = value

    with pytest.raises(EngineError, match="output 'y': expected finite values, got 1 of 60"):
        decode({"y": output}, task("yolox"), (16, 32))
    with pytest.raises(EngineError, match="output 'y': expected finite values, got 1 of 8"):
        segment({"y": np.float32([0, 0, 0, value, 0, 0, 0, 0]).reshape(1, 2, 2, 2)}, (2, 2))


def test_several_outputs_are_an_error():
    with pytest.raises(EngineError, match=r"outputs: expected one, got 'a' \(1,\), 'b' \(2, 3\); set model\.output"):
        decode({"a": np.zeros(1), "b": np.zeros((2, 3))}, task("yolox"), (16, 32))


# --- nms


def test_nms_keeps_the_best_of_an_overlap_and_other_classes():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 2]]

    kept = nms(detections(boxes, [0.5, 0.9, 0.8, 0.1, 0.2], [0, 0, 1, 0, 0]), 0.5, 100)

    assert np.allclose(kept.scores, [0.9, 0.8, 0.2, 0.1])
    assert kept.labels.tolist() == [0, 1, 0, 0]


def test_an_overlap_equal_to_the_threshold_stays():
    boxes = [[0, 0, 2, 1], [0, 0, 1, 1]]  # IoU 0.5

    assert len(nms(detections(boxes, [0.9, 0.8], [0, 0]), 0.5, 9).scores) == 2
    assert len(nms(detections(boxes, [0.9, 0.8], [0, 0]), 0.49, 9).scores) == 1


def test_a_suppressed_box_suppresses_nothing():
    boxes = [[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]]  # neighbours overlap, the outer two do not

    assert len(nms(detections(boxes, [0.9, 0.8, 0.7], [0, 0, 0]), 0.2, 9).scores) == 2


def test_empty_boxes_stay():
    assert len(nms(detections(np.zeros((3, 4)), [0.3, 0.2, 0.1], [0, 0, 0]), 0.5, 9).scores) == 3


# --- segmentation


def test_the_class_of_a_pixel_is_its_largest_logit_and_ties_go_to_the_lower():
    logits = np.float32([[[1, 5]], [[2, 5]], [[-1, 4]]])[None]

    labels = postprocess({"y": logits}, Segmentation(kind="segmentation"), (1, 2))

    assert labels.tolist() == [[1, 0]]
    assert labels.dtype == np.uint8


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.just(1), st.integers(2, 6), st.integers(1, 5), st.integers(1, 5)),
        elements=st.integers(-9, 9),
    )
)
def test_at_full_size_it_is_the_argmax(logits):
    assert np.array_equal(segment({"y": logits}, logits.shape[2:]), logits[0].argmax(axis=0))


@pytest.mark.parametrize(("classes", "dtype"), [(256, np.uint8), (257, np.uint16), (400, np.uint16)])
def test_more_than_256_classes_take_two_bytes(classes, dtype):
    logits = np.random.default_rng(0).normal(0, 1, (1, classes, 20, 30)).astype(np.float32)

    labels = segment({"y": logits}, (20, 30))

    assert labels.dtype == dtype
    assert np.array_equal(labels, logits[0].argmax(axis=0))


def test_smaller_logits_are_resized_bilinearly_first():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (1, 5, 6, 8)).astype(np.float32)

    labels = segment({"y": logits}, (24, 40))

    resized = np.stack([cv2.resize(plane, (40, 24), interpolation=cv2.INTER_LINEAR) for plane in logits[0]])
    assert np.array_equal(labels, resized.argmax(axis=0))
    # half-pixel centres: between two pixels of a row the logits mix 3:1 and 1:3
    mixed = segment({"y": np.float32([[[0, 0]], [[-3, 1.1]]])[None]}, (1, 4))
    assert mixed.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 3, 4, 4), (1, 3, 4), (1, 3, 5, 4), (1, 3, 4, 0), (1, 65537, 4, 4)])
def test_logits_of_another_shape_are_an_error(shape):
    with pytest.raises(
        EngineError, match=r"output 'y': expected logits \(1, 2 to 65536 classes, 4 at most, 4 at most\)"
    ):
        segment({"y": np.zeros(shape, np.float32)}, (4, 4))


# --- on real data


@pytest.mark.slow
def test_yolox_nano_reaches_its_measured_ap(data_root, tmp_path, capfd):
    pycocotools = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    truth = pycocotools.COCO(str(data_root / "coco_mini" / "annotations" / "instances_val2017.json"))
    categories = sorted(truth.getCatIds())
    # pycocotools counts 100 boxes a class and image; 100 an image would cost 0.001 of AP.
    settings = Detection(kind="detection", decode="yolox", max_detections=1000)
    results = []
    with open_ort(data_root / "models" / "yolox_nano.onnx", optimize=True, threads=2) as session:
        for image in truth.loadImgs(sorted(truth.getImgIds())):
            pixels = cv2.imread(str(data_root / "coco_mini" / "val2017" / image["file_name"]))
            ratio = min(416 / pixels.shape[0], 416 / pixels.shape[1])
            size = (int(pixels.shape[1] * ratio), int(pixels.shape[0] * ratio))
            canvas = np.full((416, 416, 3), 114, np.uint8)
            canvas[: size[1], : size[0]] = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
            batch = {"images": np.ascontiguousarray(canvas.transpose(2, 0, 1)[None]).astype(np.float32)}
            found = postprocess(session.run(batch), settings, (416, 416))
            for (x1, y1, x2, y2), score, label in zip(
                (found.xyxy / ratio).tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
            ):
                box = {"image_id": image["id"], "category_id": categories[label], "score": score}
                results.append({**box, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    (tmp_path / "results.json").write_text(json.dumps(results))
    judge = cocoeval.COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    capfd.readouterr()

    assert judge.stats[0] == pytest.approx(0.2851, abs=0.001)
    assert judge.stats[1] == pytest.approx(0.4528, abs=0.001)
