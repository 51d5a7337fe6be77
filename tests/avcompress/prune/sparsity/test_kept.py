"""Zeros are still there after what comes behind: folding, equalization, quantization, half precision."""

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from avcompress.export import to_onnx
from avcompress.prune.sparsity import (
    apply_masks,
    check_sparse,
    check_zeros,
    magnitude,
    sparse_weights,
    two_four_masks,
    unstructured,
    zero_shares,
)
from avcompress.quant.stages.cast import cast
from avcompress.quant.stages.equalize import equalize
from avcompress.quant.stages.ptq import quantize
from avcompress.quant.stages.weight_only import quantize_weights
from avcompress.recipe import Cast, Equalize, Ptq, WeightOnly
from avcompress.spec import Artifact, ModelError
from engines.onnx_graph import fold_batch_norms

NAMES = ("0.weight", "3.weight", "8.weight")


@pytest.fixture(scope="module")
def network():
    """Convolutions with normalization, one of them without, and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 4),
        )
        nn.init.uniform_(module[1].weight, 0.5, 2)
        nn.init.uniform_(module[1].running_var, 0.5, 2)
    return to_onnx(module.eval(), (16, 16), keep_norms=True)


def images(count: int = 3):
    rng = np.random.default_rng(0)
    return [{"images": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


LATER = {
    "folded": lambda artifact: Artifact(fold_batch_norms(artifact.model)),
    "equalized": lambda artifact: equalize(artifact, Equalize(kind="equalize")),
    "int8": lambda artifact: quantize(artifact, Ptq(kind="ptq"), images()),
    "equalized, then int8": lambda artifact: quantize(
        equalize(artifact, Equalize(kind="equalize")), Ptq(kind="ptq"), images()
    ),
    "int4 weights": lambda artifact: quantize_weights(artifact, WeightOnly(kind="weight_only", format="int4")),
    "fp16": lambda artifact: cast(artifact, Cast(kind="cast", format="fp16")),
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("kind", ["unstructured", "2:4"])
def test_zeros_are_found_again_in_later_networks(network, later, kind):
    names = sparse_weights(network, kind)
    scores = {name: values for name, values in magnitude(network).items() if name in names}
    masks = two_four_masks(network, scores) if kind == "2:4" else unstructured(scores, 0.6)
    assert set(names) == (set(NAMES) if kind == "unstructured" else set(NAMES[1:]))

    done = LATER[later](Artifact(apply_masks(network, masks))).model

    check_zeros(done, masks)
    check_sparse(done, names, kind)
    shares = zero_shares(done)
    for name, mask in masks.items():
        assert shares[name] >= 1 - mask.mean() - 1e-9


def test_a_zero_that_became_another_integer_is_found(network):
    masks = unstructured(magnitude(network), 0.5)
    done = quantize(Artifact(apply_masks(network, masks)), Ptq(kind="ptq"), images()).model
    check_zeros(done, masks)
    stored = next(item for item in done.graph.initializer if item.name == "3.weight_quantized")
    values = numpy_helper.to_array(stored).copy()
    values[tuple(np.argwhere(~masks["3.weight"])[0])] = 1
    stored.CopyFrom(numpy_helper.from_array(values, stored.name))

    with pytest.raises(ModelError, match=r"in '3.weight', the weight of layer '/3/Conv', got 1 other values"):
        check_zeros(done, masks)


def test_dense_weights_that_were_quantized_are_not_taken_for_sparse(network):
    done = quantize(Artifact(network), Ptq(kind="ptq"), images()).model

    with pytest.raises(ModelError, match=r"expected two zeros among every four inputs in '3.weight'"):
        check_sparse(done, ["3.weight"], "2:4")
