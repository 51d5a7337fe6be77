import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.spec import (
    Check,
    EngineBuildError,
    MissingError,
    OutputError,
    QuantParams,
    RecipeError,
    TensorRange,
    Verdict,
)


@pytest.mark.parametrize(
    ("measured", "sense", "limit", "passed"),
    [
        (0.3, ">=", 0.3, True),
        (0.29, ">=", 0.3, False),
        (9.0, "<=", 10.0, True),
        (10.1, "<=", 10.0, False),
        (0.0, "==", 0.0, True),
        (1.0, "==", 0.0, False),
    ],
)
def test_a_check_keeps_its_limit_or_not(measured, sense, limit, passed) -> None:
    assert Check("c", measured, sense, limit).passed is passed


@given(sense=st.sampled_from(["<=", ">=", "=="]), limit=st.floats())
def test_what_was_not_measured_never_passes(sense, limit) -> None:
    assert not Check("c", math.nan, sense, limit).passed


def test_an_empty_verdict_fails() -> None:
    assert not Verdict(()).passed


def test_one_failure_fails_the_verdict_and_is_named() -> None:
    good, bad = Check("good", 1, ">=", 0), Check("bad", 0, ">=", 1)

    assert Verdict((good,)).passed
    assert Verdict((good, bad)).failures == (bad,)
    assert not Verdict((good, bad)).passed


def test_a_numpy_comparison_gives_a_plain_bool() -> None:
    assert Check("c", float(np.float32(1)), "<=", np.float64(2)).passed is True


@pytest.mark.parametrize(("low", "high"), [((), ()), ((0.0,), (1.0, 2.0)), ((1.0,), (0.0,)), ((math.nan,), (1.0,))])
def test_a_range_is_ordered_and_finite(low, high) -> None:
    with pytest.raises(ValueError, match="expected"):
        TensorRange(low, high)


@pytest.mark.parametrize("scale", [(), (0.0,), (-1.0,), (math.inf,), (math.nan,)])
def test_a_scale_is_finite_and_above_zero(scale) -> None:
    with pytest.raises(ValueError, match="expected"):
        QuantParams(scale, (0,) * len(scale))


def test_errors_carry_the_exit_code_of_what_the_user_can_do() -> None:
    assert (RecipeError.exit_code, MissingError.exit_code, OutputError.exit_code) == (2, 3, 3)


def test_a_failed_build_comes_whole_from_another_process() -> None:
    error = EngineBuildError("parse", "net.onnx: expected Conv, got Foo; change the network", node="foo")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301

    assert (type(back), str(back), vars(back)) == (EngineBuildError, str(error), vars(error))
    assert back.remedy == "change the network"
