"""Sparse weights: which they are, and whether they still are."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils import prune as oracle

from avcompress.prune.importance import Lesson
from avcompress.prune.sparsity import (
    apply_masks,
    check_sparse,
    check_zeros,
    is_two_four,
    magnitude,
    saliency,
    sparse_weights,
    sparsity,
    two_four,
    two_four_masks,
    unstructured,
    zero_masks,
    zero_shares,
)
from avcompress.spec import ModelError, RecipeError


def layers(*nodes: tuple[str, str, np.ndarray, dict]) -> onnx.ModelProto:
    """Each a layer of its own on an input of its own: (operator, name, weight, attributes)."""
    made, inputs, outputs, weights = [], [], [], []
    for kind, name, weight, attributes in nodes:
        tensors = [f"{name}.in", f"{name}.weight"]
        made.append(helper.make_node(kind, tensors, [f"{name}.out"], name=name, **attributes))
        inputs.append(helper.make_tensor_value_info(tensors[0], TensorProto.FLOAT, None))
        outputs.append(helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, None))
        weights.append(numpy_helper.from_array(weight.astype(np.float32), tensors[1]))
    graph = helper.make_graph(made, "layers", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# --- unstructured


def test_the_least_of_each_tensor_become_zero_or_the_least_of_all():
    scores = {"a": np.array([[1.0, 4], [3, 2]]), "b": np.array([10.0, 0.5, 20, 30])}

    local, together = unstructured(scores, 0.5), unstructured(scores, 0.5, "global")

    assert {name: mask.tolist() for name, mask in local.items()} == {
        "a": [[False, True], [True, False]],
        "b": [False, False, True, True],
    }
    assert {name: mask.tolist() for name, mask in together.items()} == {
        "a": [[False, True], [False, False]],
        "b": [True, False, True, True],
    }
    assert sparsity(local) == 0.5


def test_of_equal_weights_the_later_become_zero():
    assert unstructured({"a": np.ones(4)}, 0.5)["a"].tolist() == [True, True, False, False]


def test_no_tensor_loses_all_its_weights():
    scores = {"a": np.full(4, 1e-9), "b": np.ones(100)}

    assert unstructured(scores, 0.05, "global")["a"].sum() == 1
    assert unstructured({"a": np.ones(3)}, 0.99)["a"].sum() == 1


@given(seed=st.integers(0, 99), share=st.floats(0, 0.95))
def test_each_tensor_has_the_zeros_that_torch_gives_it(seed, share):
    weight = torch.from_numpy(normal(7, 5, 3, 3, seed=seed))
    layer = nn.Conv2d(5, 7, 3)
    layer.weight = nn.Parameter(weight.clone())

    oracle.l1_unstructured(layer, "weight", amount=share)

    ours = unstructured({"w": np.abs(weight.numpy())}, share)["w"]
    assert (ours == layer.weight_mask.bool().numpy()).all()


@given(seed=st.integers(0, 99), share=st.floats(0, 0.95))
def test_all_tensors_together_have_the_zeros_that_torch_gives_them(seed, share):
    weights = [torch.from_numpy(normal(*shape, seed=seed + i)) for i, shape in enumerate([(6, 5), (9, 4), (3, 30)])]
    linears = [nn.Linear(w.shape[1], w.shape[0]) for w in weights]
    for layer, weight in zip(linears, weights, strict=True):
        layer.weight = nn.Parameter(weight.clone())

    pairs = [(layer, "weight") for layer in linears]
    oracle.global_unstructured(pairs, pruning_method=oracle.L1Unstructured, amount=share)

    ours = unstructured({str(i): np.abs(w.numpy()) for i, w in enumerate(weights)}, share, "global")
    theirs = [layer.weight_mask.bool().numpy() for layer in linears]
    if all(mask.any() for mask in theirs):  # torch may empty a tensor
        assert all((ours[str(i)] == mask).all() for i, mask in enumerate(theirs))


@given(seed=st.integers(0, 99), share=st.floats(0, 0.9), scope=st.sampled_from(["local", "global"]))
def test_what_stays_is_no_smaller_than_what_goes(seed, share, scope):
    scores = {"a": np.abs(normal(40, seed=seed)), "b": np.abs(normal(9, 11, seed=seed))}

    masks = unstructured(scores, share, scope)

    for name, mask in masks.items():
        assert scores[name][~mask].max(initial=0) <= scores[name][mask].min()
    total = sum(mask.size for mask in masks.values())
    assert abs(sparsity(masks) - share) * total <= (1 if scope == "local" else 0.5) + 1e-9


def test_the_unit_of_the_weights_does_not_matter():
    scores = {"a": np.abs(normal(50))}

    assert (unstructured(scores, 0.3)["a"] == unstructured({"a": scores["a"] * 1e-6}, 0.3)["a"]).all()


def test_saliency_is_weight_times_gradient(chain):
    from avcompress.onnx_import import import_onnx

    module = import_onnx(chain(normal(3, 2), normal(2, 3)))
    inputs = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    module(inputs).square().sum().backward()
    expected = {
        name: (module.get_parameter(attribute) * module.get_parameter(attribute).grad).abs().detach().numpy()
        for name, attribute in module.meta["parameters"].items()
    }
    module.zero_grad()

    found = saliency(module, Lesson([(inputs, None)], lambda outputs, _: outputs.square().sum()))

    assert found.keys() == {"first.weight", "second.weight"}
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=1e-5)


# --- 2:4


def test_two_of_every_four_inputs_stay_the_largest_ones():
    weight = np.array([[1, -5, 3, 2, 9, 9, 9, -10.0]])

    assert two_four(np.abs(weight), 1).tolist() == [[False, True, True, False, True, False, False, True]]


@given(seed=st.integers(0, 99), inputs=st.integers(0, 3))
def test_every_four_inputs_of_each_output_and_place_keep_their_best_two(seed, inputs):
    """The rule of TensorRT's developer guide, spelled out with the inputs at any axis."""
    shape = [3, 3, 3, 3]
    shape[inputs] = 8
    scores = np.abs(normal(*shape, seed=seed))

    mask = two_four(scores, inputs)

    assert is_two_four(scores * mask, inputs)
    columns = np.moveaxis(scores, inputs, -1).reshape(-1, 4)
    kept = np.moveaxis(mask, inputs, -1).reshape(-1, 4)
    for values, stay in zip(columns, kept, strict=True):
        assert sorted(values[stay]) == sorted(values)[2:]


def test_the_layout_is_that_of_tensorrt():
    """`count_nonzero(weights[k, 4i : 4i + 4, r, s]) <= 2`, the loop of the developer guide."""
    weight = normal(5, 12, 3, 2)
    sparse = weight * two_four(np.abs(weight), 1)

    counts = [
        np.count_nonzero(sparse[k, 4 * i : 4 * i + 4, r, s])
        for k in range(5)
        for r in range(3)
        for s in range(2)
        for i in range(3)
    ]
    assert counts == [2] * len(counts)


def test_inputs_lie_along_the_axis_that_each_operator_sums_over():
    network = layers(
        ("Conv", "conv", normal(6, 8, 3, 3), {}),
        ("ConvTranspose", "up", normal(8, 6, 2, 2), {}),
        ("Gemm", "linear", normal(6, 8), {"transB": 1}),
        ("Gemm", "gemm", normal(8, 6), {}),
        ("MatMul", "matmul", normal(8, 6), {}),
    )
    names = sparse_weights(network, "2:4")
    masks = two_four_masks(network, {n: v for n, v in magnitude(network).items() if n in names})

    sparse = apply_masks(network, masks)

    assert names == tuple(f"{n}.weight" for n in ("conv", "up", "linear", "gemm", "matmul"))
    check_sparse(sparse, names, "2:4")
    for name, axis in {"conv": 1, "up": 0, "linear": 1, "gemm": 0, "matmul": 0}.items():
        assert is_two_four(masks[f"{name}.weight"], axis)
    assert zero_shares(sparse) == dict.fromkeys(names, 0.5)


def test_layers_that_sparse_kernels_do_not_take_are_left_out():
    network = layers(
        ("Conv", "first", normal(8, 3, 3, 3), {}),
        ("Conv", "depthwise", normal(8, 1, 3, 3), {"group": 8}),
        ("Conv", "grouped", normal(8, 4, 3, 3), {"group": 2}),
        ("Conv", "point", normal(8, 8, 1, 1), {}),
        ("Conv", "head", normal(6, 8, 1, 1), {}),
    )

    assert sparse_weights(network, "2:4", ("head",)) == ("point.weight",)
    assert len(sparse_weights(network, "unstructured", ("head", "first"))) == 3
    with pytest.raises(ModelError, match=r"'first.weight' to have one group of inputs in fours, got 1 groups of 3"):
        two_four_masks(network, {"first.weight": normal(8, 3, 3, 3)})
    with pytest.raises(ModelError, match=r"expected layers whose inputs go in fours .*, got none"):
        sparse_weights(network, "2:4", ("head", "point"))
    with pytest.raises(RecipeError, match=r"sparsify.protected: .* got 'heads', which fits none; the nearest are head"):
        sparse_weights(network, "2:4", ("heads",))


# --- applied and checked


def test_masks_zero_what_they_say_and_leave_the_rest_alone(chain):
    network = chain(normal(4, 4), normal(2, 4))
    mask = np.ones((4, 4, 1, 1), bool)
    mask[1, 2] = False

    sparse = apply_masks(network, {"first.weight": mask})

    before, after = (dict(zip(("a", "b"), m.graph.initializer, strict=True)) for m in (network, sparse))
    assert numpy_helper.to_array(after["a"])[1, 2] == 0
    assert (numpy_helper.to_array(after["a"])[mask] == numpy_helper.to_array(before["a"])[mask]).all()
    assert after["b"].SerializeToString() == before["b"].SerializeToString()
    assert numpy_helper.to_array(before["a"])[1, 2] != 0
    assert (zero_masks(sparse, ["first.weight"])["first.weight"] == mask).all()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"third.weight": np.ones(3, bool)}, r"expected a constant 'third.weight' of shape \(3,\), got none"),
        ({"first.weight": np.ones(3, bool)}, r"of shape \(3,\), got one of shape \(4, 4, 1, 1\)"),
    ],
)
def test_masks_of_another_network_are_refused(chain, masks, message):
    with pytest.raises(ModelError, match=message):
        apply_masks(chain(normal(4, 4), normal(2, 4)), masks)


def test_zeros_that_were_not_kept_are_told_with_the_layer(chain):
    network = chain(normal(4, 4), normal(2, 4))
    masks = unstructured(magnitude(network), 0.5)

    check_zeros(apply_masks(network, masks), masks)
    with pytest.raises(
        ModelError, match=r"expected 0 at \(\d, \d, 0, 0\) in 'first.weight', the weight of layer 'first'"
    ):
        check_zeros(network, masks)
    with pytest.raises(ModelError, match=r"two zeros among every four inputs in 'first.weight'"):
        check_sparse(network, ["first.weight"], "2:4")
    with pytest.raises(ModelError, match=r"expected zeros in 'first.weight'"):
        check_sparse(network, ["first.weight"], "unstructured")
    with pytest.raises(ModelError, match=r"expected a weight 'third' of a layer, got none"):
        check_sparse(network, ["third"], "2:4")
    with pytest.raises(ModelError, match=r"of shape \(4, 4, 1, 1\), got \(3, 4, 1, 1\); put `sparsify` after"):
        check_zeros(chain(normal(3, 4), normal(2, 3)), masks)


@pytest.mark.parametrize("bad", [1.0, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(bad):
    with pytest.raises(RecipeError, match=r"sparsify.sparsity: expected 0 <= sparsity < 1"):
        unstructured({"a": np.ones(3)}, bad)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ModelError, match=r"expected finite scores of 'a', got nan"):
        unstructured({"a": np.array([1.0, np.nan])}, 0.5)
    with pytest.raises(ModelError, match=r"sparsity 2:4: expected finite scores"):
        two_four(np.full((1, 4), np.nan), 1)
