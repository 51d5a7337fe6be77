"""avcompress.onnx_import.pointwise: every operator gives the numbers of ONNX Runtime."""

import numpy as np
import pytest

from avcompress.onnx_import.pointwise import LOWERINGS

ANY = ["Abs", "Atan", "Asinh", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Mish", "Neg", "Relu"]
ANY += ["Round", "Sigmoid", "Sign", "Sin", "Sinh", "Cosh", "Softplus", "Softsign", "Tan", "Tanh", "HardSigmoid"]
ANY += ["LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Dropout", "IsNaN", "IsInf"]


def data(*shape, low=-3.0, high=3.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


@pytest.mark.parametrize("op", ANY)
def test_a_function_of_any_number(op, check):
    opset = 18 if op == "Mish" else 20 if op == "IsInf" else 17

    check(op, data(1, 3, 4, 5), opset=opset)


@pytest.mark.parametrize("op", ["Acos", "Asin", "Atanh"])
def test_a_function_of_numbers_up_to_one(op, check):
    check(op, data(2, 3, low=-0.9, high=0.9))


@pytest.mark.parametrize("op", ["Log", "Sqrt", "Reciprocal", "Acosh"])
def test_a_function_of_positive_numbers(op, check):
    check(op, data(2, 3, low=1.1, high=4))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Elu", {"alpha": 0.5}),
        ("Celu", {"alpha": 2.0}),
        ("ThresholdedRelu", {"alpha": 0.7}),
    ],
)
def test_attributes_are_kept(op, attributes, check):
    check(op, data(1, 3, 4, 5), **attributes)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_in_both_forms(approximate, check):
    check("Gelu", data(1, 3, 4, 5), opset=20, approximate=approximate)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("constant", [False, True])
def test_arithmetic_broadcasts(op, constant, check):
    right = data(3, 1, 1, low=0.5, seed=1)

    check(op, data(1, 3, 4, 5), ("c", right) if constant else right)


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_several_operands(op, check):
    check(op, data(1, 3, 4), data(3, 4, seed=1), data(1, 1, 4, seed=2))


def test_power_keeps_the_type_of_its_base(check):
    check("Pow", data(2, 3, low=0.1), ("c", np.array(2, np.int64)))
    check("Pow", data(2, 3, low=0.1), ("c", np.array(0.5, np.float32)))


def test_whole_numbers_divide_towards_zero(check):
    check("Div", np.array([-7, 7, -6, 5], np.int64), np.array([2, -2, 4, 3], np.int64))


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders(fmod, check):
    values, divisors = np.array([-7, 7, -6, 5], np.int64), np.array([3, -3, 4, 3], np.int64)

    check("Mod", values, divisors, fmod=fmod)
    check("Mod", values.astype(np.float32), divisors.astype(np.float32), fmod=1)


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons(op, check):
    check(op, np.array([1, 2, 3], np.float32), np.array([3, 2, 1], np.float32))


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op, check):
    left, right = np.array([True, True, False, False]), np.array([True, False, True, False])

    check(op, left, right)
    check("Not", left)


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_logic_of_bits(op, check):
    check(op, np.array([12, 10, 7], np.int32), np.array([10, 6, 1], np.int32), opset=18)
    check("BitwiseNot", np.array([12, -1], np.int32), opset=18)


@pytest.mark.parametrize(("low", "high"), [(0, 6), (None, 1), (-1, None), (None, None), (2, -2)])
def test_clip_with_and_without_bounds(low, high, check):
    bounds = [None if v is None else ("c", np.array(v, np.float32)) for v in (low, high)]

    check("Clip", data(1, 3, 4, 5), *bounds)


def test_clip_with_computed_bounds(check):
    check("Clip", data(1, 3, 4, 5), np.array(-1, np.float32), np.array(1, np.float32))


@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (1, 3, 4, 5)])
def test_prelu_slopes_are_trained(slope, check):
    module = check("PRelu", data(1, 3, 4, 5), ("c", data(*slope, low=0, high=0.5)))

    assert module.meta["parameters"] == {"i1": "i1"}


def test_where(check):
    check("Where", np.array([[True], [False]]), data(2, 3), data(1, 3, seed=1))


@pytest.mark.parametrize(("kind", "to"), [(np.float32, 7), (np.float32, 10), (np.int64, 1), (np.float32, 9)])
def test_casts(kind, to, check):
    check("Cast", np.array([-1.7, 0.0, 2.5]).astype(kind), to=to)


def test_every_operator_of_the_module_was_here():
    tested = {*ANY, "Acos", "Asin", "Atanh", "Log", "Sqrt", "Reciprocal", "Acosh", "Gelu", "Add", "Sub", "Mul", "Div"}
    tested |= {"Max", "Min", "Sum", "Mean", "Pow", "Mod", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
    tested |= {
        "And",
        "Or",
        "Xor",
        "Not",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "BitwiseNot",
        "Clip",
        "PRelu",
        "Where",
    }
    # ONNX Runtime has no kernel for Swish; CastLike is a function of Cast.
    assert set(LOWERINGS) - tested == {"Cast", "CastLike", "Swish"}


def test_a_cast_to_the_type_of_another(check):
    check("CastLike", np.array([-1.7, 2.5], np.float32), ("c", np.array([1], np.int64)))
