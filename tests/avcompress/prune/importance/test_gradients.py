"""Importance by gradients and activations, with labels and without."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.onnx_import import import_onnx
from avcompress.prune.importance import Lesson, activation, fisher, gradient, taylor
from avcompress.spec import ModelError

GRADIENTS = {"gradient": gradient, "taylor": taylor, "fisher": fisher}


def images(seed: int = 0, count: int = 4, channels: int = 2) -> torch.Tensor:
    return torch.randn(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed))


def square(outputs, _targets):
    """A mean over images."""
    return outputs.square().flatten(1).sum(1).mean()


def by_hand(network, inputs, loss=square):
    """Weights and gradients of the two layers."""
    module = import_onnx(network)
    loss(module(inputs), None).backward()
    names = module.meta["parameters"]
    pairs = [module.get_parameter(names[name]) for name in ("first.weight", "second.weight")]
    return [(p.detach().squeeze(3, 2).double().numpy(), p.grad.squeeze(3, 2).double().numpy()) for p in pairs]


FIRST = [[1.0, -2], [0.5, 3], [-1, 0.2]]
SECOND = [[1.0, 1, -1], [0.3, 2, 1]]


def gates(network) -> np.ndarray:
    """For each image the sum of weight times gradient of what reads a channel, (images, channels)."""
    found = []
    for image in images():
        _, (w2, g2) = by_hand(network, image[None])
        found.append((w2 * g2).sum(0))
    return np.array(found)


def test_taylor_is_the_magnitude_of_weight_times_gradient_of_what_reads_a_channel(chain, coupling):
    network = chain(FIRST, SECOND)

    scores = taylor(import_onnx(network), coupling(3), Lesson([(images(), None)], square))["first"]

    assert scores == pytest.approx(np.abs(gates(network)).mean(0), rel=1e-4)


def test_taylor_predicts_what_a_small_change_of_a_channel_does_to_the_loss(chain, coupling):
    # The weights that read a channel times 1 + e change the loss of an image by e times the gradient of its gate.
    network, image = chain(FIRST, SECOND), images(count=1)
    scores = taylor(import_onnx(network), coupling(3), Lesson([(image, None)], square))["first"]

    def loss(share: float) -> float:
        changed = np.array(SECOND)
        changed[:, 1] *= share
        return float(square(import_onnx(chain(FIRST, changed))(image).detach().double(), None))

    assert abs(loss(1.02) - loss(0.98)) / 0.04 == pytest.approx(scores[1], rel=1e-4)


def test_gradient_sums_magnitudes_of_what_computes_a_channel(chain, coupling):
    network = chain(FIRST, SECOND)
    expected = np.abs(by_hand(network, images())[0][1]).sum(1)

    scores = gradient(import_onnx(network), coupling(3), Lesson([(images(), None)], square))["first"]

    assert scores == pytest.approx(expected / expected.mean(), rel=1e-4)


def test_fisher_is_the_square_of_what_taylor_takes_the_magnitude_of(chain, coupling):
    network = chain(FIRST, SECOND)

    scores = fisher(import_onnx(network), coupling(3), Lesson([(images(), None)], square))["first"]

    assert scores == pytest.approx((gates(network) ** 2).mean(0), rel=1e-4)


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (3, 1), (1, 1, 1, 1)])
def test_batches_of_any_size_give_the_same(chain, coupling, sizes):
    module = import_onnx(chain(FIRST, SECOND))
    batches = [(part, None) for part in images().split(list(sizes))]

    scores = fisher(module, coupling(3), Lesson(batches, square))["first"]

    whole = fisher(module, coupling(3), Lesson([(images(), None)], square))["first"]
    assert scores == pytest.approx(whole, rel=1e-5)


def test_gradients_of_several_batches_count_by_their_mean(chain, coupling):
    network = chain(FIRST, SECOND)
    parts = [np.abs(by_hand(network, images(seed))[0][1]).sum(1) for seed in (0, 1)]

    both = gradient(import_onnx(network), coupling(3), Lesson([(images(s), None) for s in (0, 1)], square))["first"]

    assert both == pytest.approx(np.sum(parts, axis=0) / np.sum(parts, axis=0).mean(), rel=1e-5)


def test_activation_is_the_mean_magnitude_where_layers_read_it(chain, coupling):
    # relu(x), relu(-x), 2 relu(x) of an image of ones: 1, 0, 2
    module = import_onnx(chain([[1, 0], [-1, 0], [2, 0]], SECOND))

    scores = activation(module, coupling(3), [(torch.ones(1, 2, 4, 4), None)])["first"]

    assert scores == pytest.approx([1, 0, 2])


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("loss", [None, square], ids=["response", "loss"])
def test_what_no_one_reads_and_what_is_never_active_is_least_important(chain, coupling, name, loss):
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(8, 2)), rng.normal(size=(3, 8))
    second[:, 2] = 0  # nobody reads it
    first[5], bias = 0, np.zeros(8)  # it never says anything
    bias[5] = -1
    network = chain(first, second, bias=bias)

    scores = GRADIENTS[name](import_onnx(network), coupling(8), Lesson([(images(), None)], loss))["first"]

    assert sorted(scores.argsort()[:2]) == [2, 5]
    assert scores[[2, 5]] == pytest.approx(0, abs=1e-12)
    assert (np.delete(scores, [2, 5]) > 0).all()


def test_without_labels_fisher_is_the_gauss_newton_diagonal_of_the_outputs_distance(chain, coupling):
    """Many random directions against the Jacobian itself."""
    network, inputs = chain(FIRST, SECOND), images(count=2)
    module = import_onnx(network)
    second = module.get_parameter(module.meta["parameters"]["second.weight"])
    output = module(inputs)
    spread = (output - output.mean()).square().mean().detach()
    gates = [
        (second * torch.autograd.grad(value, second, retain_graph=True)[0]).detach().sum((0, 2, 3))
        for value in output.flatten()
    ]
    expected = torch.stack(gates).square().sum(0) / (output.numel() * spread)

    scores = fisher(module, coupling(3), Lesson([(inputs, None)] * 300))["first"]

    assert scores == pytest.approx(expected.double().numpy(), rel=0.15)


def test_without_labels_fisher_is_the_distance_of_the_outputs_where_they_are_linear(chain, coupling):
    """What is lost without a channel that is always active, in parts of the outputs' variance."""
    network = chain(np.abs(FIRST), SECOND)
    inputs = images(count=8).abs()
    before = import_onnx(network)(inputs).detach()
    expected = []
    for channel in range(3):
        without = np.array(SECOND)
        without[:, channel] = 0
        after = import_onnx(chain(np.abs(FIRST), without))(inputs).detach()
        expected.append(float((after - before).square().mean() / before.var(correction=0)))

    scores = fisher(import_onnx(network), coupling(3), Lesson([(inputs, None)] * 300))["first"]

    assert scores == pytest.approx(expected, rel=0.15)


def test_without_labels_the_unit_of_the_outputs_does_not_matter(chain, coupling):
    lesson = Lesson([(images(), None)])
    plain = fisher(import_onnx(chain(FIRST, SECOND)), coupling(3), lesson)["first"]
    scaled = fisher(import_onnx(chain(FIRST, np.array(SECOND) * 100)), coupling(3), lesson)["first"]

    assert scaled == pytest.approx(plain, rel=1e-3)


@given(order=st.permutations(range(4)), seed=st.integers(0, 20))
@settings(max_examples=10)
@pytest.mark.parametrize("name", [*GRADIENTS, "activation"])
def test_channels_in_another_order_have_their_scores_in_that_order(chain, coupling, name, order, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(4, 2)), rng.normal(size=(2, 4))

    def scores(first, second):
        module = import_onnx(chain(first, second))
        if name == "activation":
            return activation(module, coupling(4), [(images(), None)])["first"]
        return GRADIENTS[name](module, coupling(4), Lesson([(images(), None)]))["first"]

    assert scores(first[list(order)], second[:, list(order)]) == pytest.approx(
        scores(first, second)[list(order)], rel=1e-3, abs=1e-9
    )


def test_a_network_is_as_it_was(chain, coupling):
    module = import_onnx(chain(FIRST, SECOND)).train()
    frozen = next(module.parameters()).requires_grad_(False)
    before = [value.clone() for value in module.state_dict().values()]

    taylor(module, coupling(3), Lesson([(images(), None)]))

    assert module.training
    assert not frozen.requires_grad
    assert all(p.grad is None for p in module.parameters())
    assert all((a == b).all() for a, b in zip(before, module.state_dict().values(), strict=True))


def test_a_loss_that_is_no_number_and_no_images_at_all_are_told(chain, coupling):
    module = import_onnx(chain(FIRST, SECOND))
    bad = Lesson([(images(), None)], lambda outputs, _: outputs.sum() * float("nan"))

    with pytest.raises(ModelError, match=r"expected a finite loss, got nan in batch 0"):
        taylor(module, coupling(3), bad)
    for empty in (lambda: taylor(module, coupling(3), Lesson([])), lambda: activation(module, coupling(3), [])):
        with pytest.raises(ModelError, match=r"got none; give at least one batch"):
            empty()


def test_targets_go_to_the_loss_as_they_are(chain, coupling):
    seen: list[object] = []

    def loss(outputs, targets):
        seen.append(targets)
        return outputs.mean()

    fisher(import_onnx(chain(FIRST, SECOND)), coupling(3), Lesson([(images(), ["a", "b"])], loss))

    assert seen == [["a", "b"]]


def test_a_loss_that_depends_on_nothing_is_told(chain, coupling):
    lesson = Lesson([(images(), None)], lambda outputs, _: outputs.detach().sum())
    for criterion in (taylor, gradient):
        with pytest.raises(ModelError, match=r"expected a loss that can be differentiated"):
            criterion(import_onnx(chain(FIRST, SECOND)), coupling(3), lesson)


def test_images_that_the_network_does_not_take_are_told(chain, coupling):
    module, wrong = import_onnx(chain(FIRST, SECOND)), [(images(channels=3), None)]
    for criterion in (taylor, gradient, lambda *args: activation(*args[:2], args[2].batches)):
        with pytest.raises(ModelError, match=r"^importance: expected the network to take images \(4, 3, 4, 4\), got "):
            criterion(module, coupling(3), Lesson(wrong))
