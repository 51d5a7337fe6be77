"""ESPNet, written from the paper, is the network that its authors trained."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch

from avcompress.export import to_onnx
from avcompress.models.loading import load_torch
from avcompress.recipe import MaskSource
from avcompress.recipe_load import load_recipe
from avcompress.recipe_network import TorchModel

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "espnet_camvid.yaml"


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The file examples/espnet.py as a module."""
    spec = importlib.util.spec_from_file_location("espnet", ROOT / "examples" / "espnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["espnet"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["espnet"]


@pytest.mark.parametrize(("classes", "p", "q"), [(12, 2, 8), (20, 2, 3), (5, 0, 0)])
def test_the_logits_have_the_images_size(example: ModuleType, classes: int, p: int, q: int) -> None:
    with torch.no_grad():
        logits = example.espnet(classes, p, q).eval()(torch.zeros(2, 3, 48, 64))

    assert logits.shape == (2, classes, 48, 64)


def test_half_the_width_is_half_the_channels_of_the_encoder_and_the_seed_its_weights(example: ModuleType) -> None:
    whole, half, again, other = (
        example.espnet(**each) for each in ({}, {"width": 0.5}, {"width": 0.5}, {"width": 0.5, "seed": 1})
    )

    with torch.no_grad():
        levels = [each.encoder.eval()(torch.zeros(1, 3, 48, 64)) for each in (whole, half)]
    assert [level.shape[1] - 3 for level in levels[0][:2]] == [16, 128]
    assert [level.shape[1] - 3 for level in levels[1][:2]] == [8, 64]
    assert half.encoder.classifier.conv.weight.shape == (12, 128, 1, 1)
    assert torch.equal(half.conv.conv.weight, again.conv.conv.weight)
    assert not torch.equal(half.conv.conv.weight, other.conv.conv.weight)


def test_it_has_the_papers_number_of_parameters(example: ModuleType) -> None:
    count = sum(parameter.numel() for parameter in example.espnet(classes=20, p=2, q=8).parameters())

    assert count == pytest.approx(0.364e6, rel=0.01)  # table 5 of the paper: 0.364 M for Cityscapes' 20 classes


def test_the_pyramid_adds_the_views_up_from_the_narrowest_to_the_widest(example: ModuleType) -> None:
    block = example.Pyramid(5, 5, residual=False).eval()
    with torch.no_grad():
        block.c1.conv.weight.fill_(0.2)  # the mean of the five channels
        for factor, view in enumerate([block.d1, block.d2, block.d4, block.d8, block.d16], start=1):
            view.conv.weight.zero_()
            view.conv.weight[..., 1, 1] = factor
        joined = block(torch.ones(1, 5, 4, 4))

    # d1; d2; d2 + d4; ... : 1, 2, 2 + 3, 2 + 3 + 4, 2 + 3 + 4 + 5, up to the eps of a fresh batch norm
    np.testing.assert_allclose(joined[0, :, 0, 0].numpy(), [1, 2, 5, 9, 14], rtol=1e-3)


def test_the_export_has_static_shapes_and_plain_operators(example: ModuleType) -> None:
    torch.manual_seed(0)
    graph = to_onnx(example.espnet(), (96, 128)).graph

    kinds = {node.op_type for node in graph.node}
    assert kinds == {"Conv", "Add", "PRelu", "Concat", "BatchNormalization", "ConvTranspose", "AveragePool"}
    assert not [item.name for item in graph.initializer if "::" in item.name]


@pytest.mark.slow
def test_the_published_weights_load_and_reach_their_accuracy(data_root: Path) -> None:
    """mIoU of the export, pooled over camvid/val; void pixels are not judged, a void prediction is a miss."""
    recipe = load_recipe(RECIPE)
    assert isinstance(recipe.model, TorchModel)
    assert isinstance(recipe.data.validation, MaskSource)
    model = to_onnx(load_torch(recipe.model, data_root, RECIPE.parent), recipe.preprocess.size)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    mean, std = np.float32(recipe.preprocess.mean), np.float32(recipe.preprocess.std)
    confusion = np.zeros((12, 12), np.int64)
    for path in sorted((data_root / recipe.data.validation.images).iterdir()):
        pixels = (cv2.imread(str(path)).astype(np.float32) - mean) / std * np.float32(recipe.preprocess.scale)
        (logits,) = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
        mask = cv2.imread(str(data_root / recipe.data.validation.labels / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        labelled = mask < 11
        pairs = 12 * mask[labelled].astype(np.int64) + logits[0].argmax(0)[labelled]
        confusion += np.bincount(pairs, minlength=144).reshape(12, 12)
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)

    assert iou[:11].mean() == pytest.approx(0.7005, abs=0.003)


def test_the_published_weights_fit_by_name_and_shape(data_root: Path, example: ModuleType) -> None:
    state = torch.load(data_root / "models" / "espnet_p_2_q_8_camvid.pth", weights_only=True, map_location="cpu")
    keys = example.espnet().load_state_dict(state, strict=True)

    assert not keys.missing_keys
    assert not keys.unexpected_keys
