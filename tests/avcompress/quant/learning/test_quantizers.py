"""Parameters in units of their grid: exact to begin with, and alike in every layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avcompress.quant.learning.quantizers import (
    Bias,
    QuantizedWeight,
    Quantizer,
    Scaled,
    Scaling,
    groups,
    into_bins,
    powers_of_two,
)
from avcompress.quant.params import weight_scales
from avcompress.recipe_qat import Qat

INT8 = (-128, 127)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_untrained_parameters_are_what_they_were_bit_for_bit():
    value, unit = random(5, 3, 3, 3), random(5, 1, 1, 1, seed=1).abs() / 127
    scaling = Scaling(unit, None, INT8, learns=True)

    weight = QuantizedWeight(value, scaling)

    assert torch.equal(Scaled(value, unit)(), value)
    assert torch.equal(weight.steps * weight.unit, value)
    assert torch.equal(weight.scale(), unit)


@given(values=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5))
def test_a_unit_is_a_power_of_two_within_a_factor_of_the_root_of_two(values):
    given_values = torch.tensor(values, dtype=torch.float32)
    unit = powers_of_two(given_values)

    assert (torch.frexp(unit).mantissa == 0.5).all()
    assert ((unit / given_values).log2().abs() <= 0.5 + 1e-5).all()


@given(growth=st.floats(-50, 50))
def test_a_scale_stays_above_zero_whatever_it_learns(growth):
    quantizer = Quantizer(Scaling(torch.tensor(0.1), None, INT8, learns=True))
    with torch.no_grad():
        quantizer.growth.fill_(growth)

    assert quantizer.scale() > 0


def test_a_step_of_training_moves_channels_of_any_size_by_the_same_share_of_their_grid():
    value = random(2, 8)
    value[1] = value[0] * 1024  # what equalize may do to a channel
    scale = value.abs().amax(1, keepdim=True) / 127
    weight = QuantizedWeight(value, Scaling(scale, None, INT8, learns=True))
    before = weight.steps.detach().clone()
    optimizer = torch.optim.AdamW(groups(weight, 0.0, 1.0), lr=0.01)

    (weight() * random(8)).sum().backward()
    optimizer.step()

    moved = (weight.steps - before).detach()
    assert torch.allclose(moved[0], moved[1])
    assert moved.abs().mean() == pytest.approx(0.01, rel=0.05)


def test_the_optimizer_has_a_group_for_scales_with_a_rate_of_its_own():
    module = torch.nn.ModuleDict(
        {
            "a": Quantizer(Scaling(torch.tensor(0.1), torch.tensor(3.0), INT8, learns=True, offset=True)),
            "w": QuantizedWeight(random(4, 3), Scaling(torch.full((4, 1), 0.1), None, INT8, learns=True)),
            "b": Scaled(random(4), torch.tensor(0.1)),
        }
    )
    weights, biases, scales = groups(module, 0.5, 0.1)

    assert [tuple(p.shape) for p in weights["params"]] == [(4, 3)]
    assert [tuple(p.shape) for p in biases["params"]] == [(4,)]
    assert [tuple(p.shape) for p in scales["params"]] == [(), (), (4, 1)]
    assert (weights["weight_decay"], biases["weight_decay"], scales["weight_decay"]) == (0.5, 0.0, 0.0)
    assert (scales["factor"], "factor" in weights) == (0.1, False)


@given(seed=st.integers(0, 100), turn=st.floats(-3, 3))
def test_a_weight_begins_where_it_is_rounded_to_what_is_stored_and_near_what_it_was(seed, turn):
    scale = torch.tensor(0.03)
    value = random(20, seed=seed)
    stored = (value / scale + turn).round().clamp(*INT8)

    begun = into_bins(value, stored, scale)

    assert torch.equal((begun / scale).round(), stored)
    # No further than it has to, but for the hundredth of a step that it keeps from the border.
    assert ((begun - value).abs() <= ((stored * scale - value).abs() - 0.49 * scale).clamp(min=0) + 1e-6).all()


def test_recomputed_scales_are_those_of_ptq():
    value = random(6, 4, 3, 3)
    expected = torch.tensor(weight_scales(value.numpy(), 0).scale)
    start = Scaling(torch.full((6, 1, 1, 1), 0.5), None, INT8, learns=False, recomputed=True)

    assert torch.equal(QuantizedWeight(value, start).scale().reshape(-1), expected)


def test_a_zero_point_is_an_integer_within_the_grid_and_learns():
    quantizer = Quantizer(Scaling(torch.tensor(0.1), torch.tensor(-100.0), INT8, learns=True, offset=True))
    for offset, expected in ((0.0, -100), (0.01, -97), (-1.0, -128)):
        with torch.no_grad():
            quantizer.offset.fill_(offset)
        assert quantizer.zero_point().item() == expected
    with torch.no_grad():
        quantizer.offset.zero_()

    quantizer(torch.tensor([[50.0, 1.0]])).sum().backward()

    assert quantizer.offset.grad.item() < 0  # 50 is above the range: a lower zero point takes it further up


def test_gradients_of_scales_are_divided_by_the_root_of_values_times_levels():
    x = random(2, 50) * 5  # two images: a factor counts the values of one
    whole, unscaled = torch.tensor(0.1, requires_grad=True), Quantizer(Scaling(torch.tensor(0.1), None, INT8, True))
    unscaled(x).sum().backward()
    from avcompress.quant.learning.learned_steps import quantize

    quantize(x, whole, None, INT8).sum().backward()

    expected = whole.grad * 0.1 / (50 * 127) ** 0.5
    assert unscaled.growth.grad.item() == pytest.approx(expected.item(), rel=1e-4)


def test_with_ste_no_scale_is_learned():
    settings = Qat(kind="qat", steps=1, method="ste")

    assert (settings.learns_activations, settings.learns_weights) == (False, False)


@pytest.mark.parametrize("grouped", [False, True])
def test_with_the_mean_of_its_inputs_a_bias_takes_what_a_changed_weight_gives_on_average(grouped):
    groups = 2 if grouped else 1
    x, weight = random(3, 4, 5, 5) + 7, random(6, 4 // groups, 1, 1, seed=1)
    bias = Bias(random(6), torch.tensor(0.01), weight)
    before = torch.nn.functional.conv2d(x, weight, bias(weight), groups=groups)
    assert torch.equal(bias(weight), bias.steps * bias.unit)
    bias.set_mean_(x.mean((0, 2, 3)))

    changed = weight + 0.1 * random(*weight.shape, seed=2)
    after = torch.nn.functional.conv2d(x, changed, bias(changed), groups=groups)

    assert torch.allclose(after.mean((0, 2, 3)), before.mean((0, 2, 3)), atol=1e-4)
    assert (after - before).abs().max() > 0.1
