import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engines import nms as module
from engines.nms import keep_best


def nms_by_loop(xyxy, scores, labels, iou, limit):
    """The plain pairwise loop, in the same float32 arithmetic: the oracle."""
    kept = []
    area = [np.prod(np.maximum(box[2:] - box[:2], 0), dtype=np.float32) for box in xyxy]
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        for j in kept:
            a, b = xyxy[i], xyxy[j]
            sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
            shared = sides[0] * sides[1]
            if labels[i] == labels[j] and shared > np.float32(iou) * (area[i] + area[j] - shared):
                break
        else:
            kept.append(i)
    return kept[:limit]


def random_boxes(count, classes, sides=(5, 90), seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 200, (count, 2))
    xyxy = np.concatenate([corners, corners + rng.uniform(*sides, (count, 2))], axis=1).astype(np.float32)
    return xyxy, rng.random(count).astype(np.float32), rng.integers(0, classes, count)


def few_at_a_time(patch, block, pairs, piece):
    for name, value in (("_BLOCK", block), ("_PAIRS", pairs), ("_PIECE", piece)):
        patch.setattr(module, name, value)


tiny = st.sampled_from([0.0, 1e-45, 3e-45, 1e-38, 1e-23, 3e-20, 1e-15, 1e-5])
places = {
    "a small grid, where ties and equal overlaps abound": st.integers(-3, 12),
    "anywhere": st.floats(-1e6, 1e6, width=32),
    "close together": st.floats(100, 101, width=32),
    "sizes that float32 rounds coarsely": tiny,
}


@pytest.mark.parametrize("place", places.values(), ids=places.keys())
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_it_equals_the_pairwise_loop(place, data):
    xyxy = data.draw(hnp.arrays(np.float32, st.tuples(st.integers(0, 24), st.just(4)), elements=place))
    count = len(xyxy)
    scores = data.draw(hnp.arrays(np.float32, count, elements=st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.9])))
    labels = data.draw(hnp.arrays(np.int64, count, elements=st.sampled_from([0, 1, 79])))
    iou = data.draw(st.sampled_from([0.0, 1e-6, 0.3, 0.5, 0.65, 1.0]) | st.floats(0, 1))
    limit = data.draw(st.integers(1, 30))

    with pytest.MonkeyPatch.context() as patch:
        few_at_a_time(patch, data.draw(st.sampled_from([1, 4, 8, 1024])), data.draw(st.sampled_from([1, 9, 999])), 5)
        kept = keep_best(xyxy, scores, labels, iou, limit)

    assert kept.tolist() == nms_by_loop(xyxy, scores, labels, iou, limit)


@settings(deadline=None, max_examples=300)
@given(
    box=st.tuples(*[st.floats(-50, 50, width=32)] * 2, *[st.floats(2**-10, 100, width=32)] * 2),
    steps=st.tuples(*[st.integers(-3, 3)] * 4),
    share=st.floats(0.05, 1),
)
@example(box=(0, 0, 1, 1), steps=(0, 0, 0, 0), share=1.0)
def test_a_pair_on_the_edge_of_the_threshold_is_not_overlooked(box, steps, share):
    # A part of the box, grown by a few units in the last place: its overlap with the whole is `share`, give or take.
    x, y, width, height = box
    whole = np.float32([x, y, x + width, y + height])
    part = np.float32([x + width * (1 - share), y, x + width, y + height])
    for corner, step in enumerate(steps):
        for _ in range(abs(step)):
            part[corner] = np.nextafter(part[corner], np.float32(np.copysign(np.inf, step)))

    for xyxy in (np.stack([whole, part]), np.stack([part, whole])):
        pair = (xyxy, np.float32([0.9, 0.8]), np.int64([0, 0]), share, 9)
        assert keep_best(*pair).tolist() == nms_by_loop(*pair)


@pytest.mark.parametrize("limit", [20, 1000])
def test_it_equals_the_pairwise_loop_on_many_random_boxes(limit):
    boxes = random_boxes(700, 3)

    assert keep_best(*boxes, 0.5, limit).tolist() == nms_by_loop(*boxes, 0.5, limit)


@pytest.mark.parametrize(("count", "limit"), [(5000, 30), (5000, 400), (1500, 9999)])
def test_more_candidates_are_looked_at_until_enough_are_kept(count, limit):
    # Clusters of 300: so many are removed that the first candidates do not hold enough that stay.
    xyxy, scores, labels = random_boxes(count, 2)
    xyxy = xyxy[np.arange(count) // 300] + np.random.default_rng(1).uniform(-3, 3, xyxy.shape).astype(np.float32)
    scores = np.sort(np.round(scores, 2))[::-1].copy()

    with pytest.MonkeyPatch.context() as patch:
        few_at_a_time(patch, 64, 4096, 1024)
        kept = keep_best(xyxy, scores, labels, 0.4, limit)

    assert kept.tolist() == nms_by_loop(xyxy, scores, labels, 0.4, limit)


@given(hnp.arrays(np.float32, st.integers(0, 40), elements=st.sampled_from([-1, -0.0, 0.0, 1e-45, 0.5, 3e38])))
def test_equal_scores_keep_their_order(scores):
    apart = np.zeros((len(scores), 4), np.float32)

    kept = keep_best(apart, scores, np.zeros(len(scores), np.int64), 0.5, 99)

    assert kept.tolist() == np.argsort(-scores, kind="stable").tolist()


def test_a_long_chain_of_overlaps_is_walked_to_its_end():
    left = np.arange(60, dtype=np.float32)
    xyxy = np.stack([left, 0 * left, left + 2, 0 * left + 1], axis=1)  # each overlaps the next, by a third

    kept = keep_best(xyxy, -left, np.zeros(60, np.int64), 0.3, 99)

    assert kept.tolist() == list(range(0, 60, 2))


def test_classes_are_told_apart_however_large_their_numbers():
    xyxy = np.tile(np.float32([0, 0, 9, 9]), (4, 1))

    kept = keep_best(xyxy, np.float32([4, 3, 2, 1]), np.int64([2**60, 2**60 + 1, 2**60, 1]), 0.5, 9)

    assert kept.tolist() == [0, 1, 3]


def test_nothing_is_nothing():
    assert keep_best(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64), 0.5, 9).size == 0


def onnx_nms(xyxy, scores, iou, limit):
    """(class, box) pairs of ONNX NonMaxSuppression, class after class; scores are (classes, boxes)."""
    names = ["boxes", "scores", "limit", "iou"]
    types = [(1, (1, None, 4)), (1, (1, None, None)), (7, (1,)), (1, (1,))]
    node = onnx.helper.make_node("NonMaxSuppression", names, ["kept"])
    graph = onnx.helper.make_graph(
        [node],
        "nms",
        [onnx.helper.make_tensor_value_info(n, *t) for n, t in zip(names, types, strict=True)],
        [onnx.helper.make_tensor_value_info("kept", 7, (None, 3))],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = [xyxy[None], scores[None], np.int64([limit]), np.float32([iou])]
    return session.run(None, dict(zip(names, values, strict=True)))[0][:, 1:]


@pytest.mark.parametrize("seed", range(5))
def test_onnx_runtime_keeps_the_same_boxes_of_every_class(seed):
    xyxy, _, _ = random_boxes(400, 1, seed=seed)
    table = np.random.default_rng(seed).permutation(400 * 3).reshape(3, 400).astype(np.float32)
    labels, rows = np.divmod(np.arange(1200), 400)

    kept = keep_best(xyxy[rows], table.ravel(), labels, 0.45, 1200)

    oracle = onnx_nms(xyxy, table, 0.45, 400)
    for label in range(3):
        ours = rows[kept[labels[kept] == label]]
        assert ours.tolist() == oracle[oracle[:, 0] == label, 1].tolist()
        assert 0 < len(ours) < 400
