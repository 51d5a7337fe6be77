"""The reference networks: shapes, export, losses computed by hand."""

import math
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from avcompress.export import to_onnx
from avcompress.models import detector, segmenter
from avcompress.models.detection import BoxTargets, assign, grid, overlaps, quality_focal
from avcompress.models.layers import Residual
from avcompress.models.segmentation import class_weights
from calibration.sample import Boxes, Sample


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads that wait for each other on a busy machine take many times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(boxes: list[tuple[float, ...]], labels: list[int], ignore: list[bool] | None = None) -> Sample:
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    flags = np.array(ignore if ignore is not None else [False] * len(labels), np.bool_)
    area = (xyxy[:, 2:] - xyxy[:, :2]).astype(np.float64).prod(axis=1)
    return Sample("s", np.zeros((64, 96, 3), np.uint8), Boxes(xyxy, np.array(labels, np.int64), flags, area))


def targets(*samples: Sample) -> BoxTargets:
    return detector(num_classes=3, width=8).targets(samples)


# --- both networks


def test_importing_the_package_loads_no_torch():
    code = "import sys, avcompress.models; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'teacher'"):
        __import__("avcompress.models").models.teacher  # noqa: B018


@pytest.mark.parametrize("factory", [detector, segmenter], ids=["detector", "segmenter"])
def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone(factory):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    first, again, other = (factory(num_classes=3, width=8, seed=seed).state_dict() for seed in (1, 1, 2))

    assert (torch.rand(3) == expected).all()
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize(
    ("factory", "shape"),
    [(detector, (1, 96 + 24 + 6, 4 + 3)), (segmenter, (1, 3, 64, 96))],
    ids=["detector", "segmenter"],
)
def test_an_export_has_plain_operators_and_onnx_runtime_agrees(factory, shape):
    module = factory(num_classes=3, width=8).eval()
    image = np.random.default_rng(0).random((1, 3, 64, 96), np.float32)

    model = to_onnx(module, (64, 96))

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    output = session.run(None, {"images": image})[0]
    assert output.shape == shape
    np.testing.assert_allclose(output, module(torch.from_numpy(image)).detach().numpy(), atol=1e-4)
    assert model.opset_import[0].version == 17
    operators = {node.op_type for node in model.graph.node}
    # Nothing that computes shapes, no normalization left: what any runtime takes.
    plain = {"Conv", "Relu", "Add", "Concat", "Resize", "Reshape", "Transpose", "Slice", "Constant"}
    assert operators <= plain | {"Softplus", "DepthToSpace", "ReduceMean"}
    onnx.checker.check_model(model, full_check=True)


# --- the detector


def test_cells_lie_at_their_middles_row_by_row_finest_first():
    centres, strides = grid(64, 96)

    assert len(centres) == 8 * 12 + 4 * 6 + 2 * 3
    assert centres[:2].tolist() == [[4, 4], [12, 4]]
    assert centres[12].tolist() == [4, 12]
    assert centres[-1].tolist() == [80, 48]
    assert strides[[0, 96, -1]].tolist() == [8, 16, 32]


def test_distances_are_never_negative():
    module = detector(num_classes=2, width=8).eval()

    assert (module(torch.randn(2, 3, 64, 64) * 5)[..., :4] >= 0).all()


def test_a_small_object_is_answered_for_by_the_fine_cells_around_its_middle():
    owner, background = assign(targets(sample([(20, 20, 44, 44)], [1])))

    centres, strides = grid(64, 96)
    # The middle is (32, 32); a stride of 8 reaches 12 pixels, which is also half its size.
    cells = centres[owner[0] == 0]
    assert sorted(cells.tolist()) == [[x, y] for x in (28, 36) for y in (28, 36)]
    assert (strides[owner[0] == 0] == 8).all()
    assert (background[0] == (owner[0] < 0)).all()


def test_an_object_thinner_than_a_cell_is_still_answered_for():
    owner, _ = assign(targets(sample([(31, 20, 33, 40)], [0])))

    assert (owner[0] == 0).any()


def test_a_large_object_is_answered_for_by_coarser_cells():
    _, strides = grid(64, 96)

    owner, _ = assign(targets(sample([(0, 0, 90, 60)], [2])))

    assert set(strides[owner[0] == 0].tolist()) == {16}


def test_where_two_objects_overlap_the_smaller_one_has_the_cell():
    owner, _ = assign(targets(sample([(12, 12, 52, 52), (26, 26, 38, 38)], [0, 1])))

    assert (owner[0] == 1).sum() == 4


def test_ignored_objects_are_neither_answered_for_nor_background():
    owner, background = assign(targets(sample([(16, 16, 48, 48)], [1], [True])))

    centres, _ = grid(64, 96)
    inside = ((centres > 16) & (centres < 48)).all(dim=-1)
    assert (owner == -1).all()
    assert (background[0] == ~inside).all()


def test_pictures_without_objects_are_all_background():
    for batch in ((sample([], []),), (sample([], []), sample([(20, 20, 44, 44)], [1]))):
        owner, background = assign(targets(*batch))
        assert (owner[0] == -1).all()
        assert background[0].all()


def test_overlap_of_two_boxes_by_hand():
    # Two 2x2 squares that share 1x2 in a hull of 3x2.
    iou, giou = overlaps(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))

    assert iou.item() == pytest.approx(2 / 6)
    assert giou.item() == pytest.approx(2 / 6)
    # Two unit squares one apart: nothing shared, a third of the hull empty.
    iou, giou = overlaps(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]]))
    assert iou.item() == 0
    assert giou.item() == pytest.approx(-1 / 3)


@settings(deadline=None)
@given(st.lists(st.floats(0, 50, width=32), min_size=8, max_size=8))
def test_generalized_overlap_lies_between_minus_one_and_the_overlap(values):
    a, b = torch.tensor(values).reshape(2, 2, 2).sort(dim=1).values.reshape(2, 1, 4)
    a, b = a + torch.tensor([0, 0, 1, 1]), b + torch.tensor([0, 0, 1, 1])

    iou, giou = overlaps(a, b)

    assert -1 <= giou.item() <= iou.item() + 1e-5 <= 1 + 2e-5


def test_quality_focal_loss_by_hand():
    # Score 0.5: (0.8 - 0.5)^2 * -(0.8 ln 0.5 + 0.2 ln 0.5).
    loss = quality_focal(torch.tensor([0.0]), torch.tensor([0.8]))

    assert loss.item() == pytest.approx(0.09 * math.log(2))


def test_the_detector_s_loss_by_hand():
    module = detector(num_classes=2, width=8)
    labelled = module.targets([sample([(20, 20, 44, 44)], [1])])
    owner, _ = assign(labelled)
    outputs = torch.zeros(1, 126, 6)
    outputs[..., 4:] = -30.0
    chosen = owner[0] == 0
    centres = labelled.centres[chosen]
    outputs[0, chosen, 0:2] = (centres - 20) / 8
    outputs[0, chosen, 2:4] = (44 - centres) / 8
    outputs[0, chosen, 5] = 30.0
    assert module.loss(outputs, labelled).item() == pytest.approx(0, abs=1e-5)

    outputs[0, chosen, 5] = 0.0
    # Boxes are perfect; four cells with score 0.5 instead of 1, over four cells.
    assert module.loss(outputs, labelled).item() == pytest.approx(0.25 * math.log(2), rel=1e-4)


def test_a_batch_without_objects_has_a_finite_loss_and_gradient():
    module = detector(num_classes=2, width=8)
    outputs = module(torch.rand(1, 3, 64, 96))

    loss = module.loss(outputs, module.targets([sample([], [])]))
    loss.backward()

    assert math.isfinite(loss.item())
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


# --- the segmenter


def test_class_weights_by_hand():
    weights = class_weights(torch.tensor([[0, 0, 0, 1, 255]]), 3)

    assert weights.tolist() == pytest.approx([1 / math.log(1.8), 1 / math.log(1.3), 1 / math.log(1.05)])


def test_the_segmenter_s_loss_is_weighted_cross_entropy_without_void():
    module = segmenter(num_classes=2, width=8)
    logits = torch.tensor([2.0, 0.0, 0.0, 1.0, 5.0, -5.0]).reshape(1, 3, 1, 2).transpose(1, 3)
    masks = torch.tensor([[[0], [0], [255]]]).reshape(1, 1, 3)

    loss = module.loss(logits.transpose(2, 3).reshape(1, 2, 1, 3), masks)

    expected = (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(1.0))) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_masks_become_int64():
    masked = Sample("m", np.zeros((4, 4, 3), np.uint8), mask=np.full((4, 4), 255, np.uint8))

    labels = segmenter(num_classes=2, width=8).targets([masked, masked])

    assert labels.dtype == torch.int64
    assert labels.shape == (2, 4, 4)


@pytest.mark.parametrize(("depths", "blocks"), [((0, 0, 0), 0), ((1, 1, 0), 2), ((3, 2, 1), 6)])
def test_depths_are_the_residual_blocks_at_each_stride(depths, blocks):
    network = segmenter(num_classes=3, width=4, depths=depths)

    assert sum(isinstance(part, Residual) for part in network.modules()) == blocks
    assert network(torch.zeros(2, 3, 64, 64)).shape[:2] == (2, 3)


def test_the_usual_depths_change_no_weight():
    usual, named = segmenter(num_classes=3), segmenter(num_classes=3, depths=[2, 2, 1])

    assert all(torch.equal(a, b) for a, b in zip(usual.parameters(), named.parameters(), strict=True))


def test_depths_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"depths at strides 8, 16 and 32, got 16 and \[1, 1\]"):
        segmenter(num_classes=3, depths=[1, 1])
