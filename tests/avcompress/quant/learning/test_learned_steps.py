"""Fake quantization with gradients for steps and zero points: against ONNX, by hand, and against plain autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.quant.learning.learned_steps import Rule, quantize
from avcompress.spec import QuantParams
from engines.qdq import dequantize_array, quantize_array

INT8 = (-128, 127)


def leaf(values):
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def plain(x, scale, zero_point, clipping=False):
    """The same in plain torch: LSQ's rounding, straight through for x, then clipping and scaling by autograd."""
    steps = x / scale
    rounded = steps.round()
    # PACT: the step moves nothing inside the range, where x stands for its rounded self.
    inner = x / scale.detach() if clipping else steps
    steps = inner + (rounded - inner).detach()
    shifted = (steps + zero_point).clamp(*INT8)
    clipped = (rounded + zero_point < INT8[0]) | (rounded + zero_point > INT8[1])
    out = (shifted - zero_point) * scale
    return torch.where(clipped, out, x + (out - x).detach()) if clipping else out


@pytest.mark.parametrize(("zero_point", "axis"), [(0, None), (3, None), (-128, None), (0, 1), (5, 1)])
def test_values_are_those_of_onnx_bit_for_bit_on_ties_too(zero_point, axis):
    rng = np.random.default_rng(0)
    scale = np.array([0.25] if axis is None else [0.25, 0.1, 3.0], np.float32)
    values = rng.standard_normal((2, 3, 50)).astype(np.float32) * 20
    values[:, 0, :30] = (np.arange(30) + 0.5).astype(np.float32) * 0.25  # halves of a step
    params = QuantParams(tuple(scale.tolist()), (zero_point,) * len(scale), "int8", axis)
    expected = dequantize_array(quantize_array(values, params), params)

    shape = () if axis is None else (1, 3, 1)
    found = quantize(
        torch.from_numpy(values),
        torch.from_numpy(scale).reshape(shape),
        torch.full(shape, float(zero_point)) if zero_point else None,
        INT8,
    )

    assert np.array_equal(found.numpy(), expected)


def test_fp8_values_are_those_of_onnx():
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * 300
    params = QuantParams((0.5,), (0,), "float8e4m3fn")

    found = quantize(torch.from_numpy(values), torch.tensor(0.5), None, None)

    assert np.array_equal(found.numpy(), dequantize_array(quantize_array(values, params), params))


def test_the_gradients_of_the_step_are_those_of_the_papers():
    # Of 0.7, 1.2 and 300 steps: round(v) - v inside, the largest level outside. By hand.
    for clipping, expected in ((False, (1 - 0.7) + (1 - 1.2) + 127), (True, 127.0)):
        x, scale = leaf([0.35, 0.6, 150.0]), leaf(0.5)
        quantize(x, scale, None, INT8, Rule(1.0, clipping)).sum().backward()

        assert scale.grad.item() == pytest.approx(expected, rel=1e-5)
        assert x.grad.tolist() == [1, 1, 0]


def test_the_gradient_of_the_zero_point_is_that_of_what_is_clipped():
    # (clamp(round(v) + z) - z) s: a larger z moves what is clipped down by a step. By hand.
    x, scale, zero = leaf([0.6, 90.0, -200.0]), leaf(0.5), leaf(10.0)
    quantize(x, scale, zero, INT8, Rule()).sum().backward()

    assert zero.grad.item() == pytest.approx(-0.5 * 2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.floats(0.01, 3.0),
    zero=st.integers(-100, 100),
    channels=st.booleans(),
    clipping=st.booleans(),
)
def test_all_gradients_are_those_of_plain_autograd(seed, size, zero, channels, clipping):
    random = torch.Generator().manual_seed(seed)
    shape = (1, 3, 1) if channels else ()
    x0 = torch.randn(2, 3, 40, generator=random) * 100
    s0 = (torch.rand(shape, generator=random) + 0.1) * size
    weights = torch.randn(2, 3, 40, generator=random)
    grads = []
    for function in (quantize, plain):
        x, scale = x0.clone().requires_grad_(), s0.clone().requires_grad_()
        shift = torch.full(shape, float(zero), requires_grad=True)
        arguments = (INT8, Rule(1.0, clipping)) if function is quantize else (clipping,)
        (function(x, scale, shift, *arguments) * weights).sum().backward()
        grads.append((x.grad, scale.grad, shift.grad))

    for ours, theirs in zip(*grads, strict=True):
        # The two large sums whose difference the step's gradient is are rounded to float32.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(x0.abs().max() / s0.min()))


def test_a_factor_is_on_the_step_and_zero_point_and_not_on_what_is_rounded():
    found = []
    for factor in (1.0, 0.25):
        x, scale, zero = leaf([0.35, 90.0]), leaf(0.5), leaf(3.0)
        quantize(x, scale, zero, INT8, Rule(factor)).sum().backward()
        found.append((x.grad.tolist(), scale.grad.item(), zero.grad.item()))

    assert found[1] == (found[0][0], found[0][1] / 4, found[0][2] / 4)
