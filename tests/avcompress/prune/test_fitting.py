"""What is left of a layer is fitted to what the whole one gave."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from avcompress.prune import channel_groups, without
from avcompress.prune.fitting import example, fitted, outputs_gone
from avcompress.spec import ModelError
from engines.in_memory import open_model
from engines.onnx_graph import name_nodes

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[1,2,6,6] x) => (float[1,3,6,6] y) {
    a = Conv <pads = [1,1,1,1]> (x, wa, ba)
    r = Relu (a)
    y = Conv (r, wy, by)
}
"""


def network(channels: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Two convolutions; the last two channels between them are the same."""
    random = np.random.default_rng(seed)
    model = parser.parse_model(TEXT)
    values = {
        "wa": random.normal(0, 0.5, (channels, 2, 3, 3)),
        "ba": random.normal(0, 0.1, channels),
        "wy": random.normal(0, 1, (3, channels, 1, 1)),
        "by": random.normal(0, 1, 3),
    }
    values["wa"][-1], values["ba"][-1] = values["wa"][-2], values["ba"][-2]
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items())
    return name_nodes(model)


def images(count: int = 8, shape: tuple[int, ...] = (2, 6, 6)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, *shape, generator=generator) for _ in range(count // 4)]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def fit(dense: onnx.ModelProto, gone: tuple[int, ...], group: str | None = None, **options):
    coupling = channel_groups(dense)
    removed = {group or coupling.groups[0].name: gone}
    small = without(dense, coupling, removed)
    return small, fitted(example(dense, images()), small, outputs_gone(dense, coupling, removed), **options)


def test_a_channel_that_another_one_equals_is_made_up_for_wholly():
    dense = network()

    small, fit_ = fit(dense, (3,))

    before, after = constants(dense), constants(fit_.network)
    wanted = before["wy"][:, :3].copy()
    wanted[:, 2] += before["wy"][:, 3]
    assert after["wy"] == pytest.approx(wanted, abs=2e-3)
    assert after["wa"] == pytest.approx(before["wa"][:3])
    ((lost, left),) = fit_.lost.values()
    assert lost > 0.01
    assert left < 1e-6
    assert constants(small)["wy"] == pytest.approx(before["wy"][:, :3])  # what it was given is not changed


def test_it_is_the_ridge_regression_of_numpy():
    """The weights are those that numpy's least squares finds, where there is evidence for all of them."""
    dense = network(seed=3)

    coupling = channel_groups(dense)
    removed = {coupling.groups[0].name: (0,)}
    many = images(128)
    fit_ = fitted(example(dense, many), without(dense, coupling, removed), outputs_gone(dense, coupling, removed))

    given_ = torch.cat(many).numpy()
    kept = [i for i in range(128) if i % 4 != 1]
    inner = open_model(_with_inner(dense), optimize=False)
    pairs = [inner.run(["r", "y"], {"x": given_[i : i + 1]}) for i in kept]
    inputs = np.concatenate([r[:, 1:].transpose(0, 2, 3, 1).reshape(-1, 3) for r, _ in pairs])
    outputs = np.concatenate([y.transpose(0, 2, 3, 1).reshape(-1, 3) for _, y in pairs])
    solved, *_ = np.linalg.lstsq(np.c_[inputs, np.ones(len(inputs))], outputs, rcond=None)
    # Two equal channels share what one weight does: numpy takes the least one, we stay near what there was.
    after = constants(fit_.network)
    ours = np.c_[inputs, np.ones(len(inputs))] @ np.r_[after["wy"][:, :, 0, 0].T, after["by"][None]]
    best = np.c_[inputs, np.ones(len(inputs))] @ solved
    assert np.square(ours - outputs).mean() < 1.02 * np.square(best - outputs).mean()


def _with_inner(model: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(model)
    found.graph.output.append(onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None))
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sets(st.integers(0, 4), min_size=1, max_size=4))
def test_no_layer_loses_more_than_before(seed, gone):
    dense = network(channels=5, seed=seed)

    small, fit_ = fit(dense, tuple(sorted(gone)))

    assert all(after < before for before, after in fit_.lost.values())
    assert {n: v.shape for n, v in constants(fit_.network).items()} == {n: v.shape for n, v in constants(small).items()}
    assert all(np.isfinite(value).all() for value in constants(fit_.network).values())


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2", "residual", "attention", "yolov8", "vit", "regnet"])
def test_the_networks_outputs_come_nearer(name, exported, coupled):
    dense, coupling = exported(name), coupled(name)
    removed = {g.name: tuple(range(len(g.channels) // 2)) for g in coupling.groups}
    small = without(dense, coupling, removed)
    shape = tuple(d.dim_value for d in dense.graph.input[0].type.tensor_type.shape.dim)[1:]
    beside = example(dense, images(16, shape))
    gone = outputs_gone(dense, coupling, removed)

    unseen = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2))
    whole = _values(dense, unseen)
    assert (_values(fitted(beside, small, gone).network, unseen) - whole).square().mean() < (
        _values(small, unseen) - whole
    ).square().mean()


def _values(model: onnx.ModelProto, images: torch.Tensor) -> torch.Tensor:
    session = open_model(model)
    outputs = [session.run(None, {session.get_inputs()[0].name: image[None].numpy()}) for image in images]
    return torch.cat([torch.from_numpy(part).flatten() for found in outputs for part in found])


def test_zeros_that_are_to_stay_and_shared_weights_are_left_alone():
    dense = network()

    _, fit_ = fit(dense, (3,), leave=("wy",))

    assert constants(fit_.network)["wy"] == pytest.approx(constants(dense)["wy"][:, :3])


SQUEEZED = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[1,2,6,6] x) => (float[1,3,1,1] y) {
    a = Conv <pads = [1,1,1,1]> (x, wa, ba)
    r = Relu (a)
    p = GlobalAveragePool (r)
    y = Conv (p, wy, by)
}
"""


def test_a_layer_that_is_held_against_a_single_output_stays_as_it_was():
    """Of four images one is held out, and behind a global mean it is one position."""
    dense = parser.parse_model(SQUEEZED)
    dense.graph.initializer.extend(network().graph.initializer)
    dense = name_nodes(dense)
    coupling = channel_groups(dense)
    removed = {coupling.groups[0].name: (0,)}
    small = without(dense, coupling, removed)

    fit_ = fitted(example(dense, images(4)), small, outputs_gone(dense, coupling, removed))

    assert not fit_.lost
    assert constants(fit_.network)["wy"] == pytest.approx(constants(small)["wy"])


def test_too_few_images_are_told():
    with pytest.raises(
        ModelError, match=r"^prune: expected 4 images at least to fit layers to, got 3; give more, or set fit: false$"
    ):
        example(network(), [torch.zeros(3, 2, 6, 6)])


def test_images_that_the_network_does_not_take_are_told():
    with pytest.raises(ModelError, match=r"^fit: expected the network to take images \(3, 5, 6, 6\)"):
        example(network(), [torch.zeros(4, 5, 6, 6)])


def test_a_layer_that_is_scaled_rightly_is_fitted_to_its_scaled_outputs():
    dense = network()
    scaled = onnx.ModelProto.FromString(dense.SerializeToString())
    for item in scaled.graph.initializer:  # relu(1.2 x) = 1.2 relu(x)
        factor = {"wa": 1.2, "ba": 1.2, "wy": 1 / 1.2}.get(item.name, 1.0)
        item.CopyFrom(numpy_helper.from_array((factor * numpy_helper.to_array(item)).astype(np.float32), item.name))
    layers = {node.output[0]: node.name for node in dense.graph.node}

    wrong, right = (
        fitted(example(dense, images()), scaled, {}, factors=factors) for factors in ({}, {layers["a"]: 1.2})
    )

    assert not right.lost
    assert wrong.lost
