import numpy as np
import pytest

from avcompress.spec import EngineError
from engines.session import FLOAT32, FakeSession, InputSpec, check_inputs, one_line


def double(inputs):
    return {"y": inputs["x"] * 2}


def test_a_fake_session_calls_its_function():
    with FakeSession(double, {"x": (1, 2)}, ("y",)) as session:
        outputs = session.run({"x": np.float32([[1, 2]])})

    assert outputs["y"].tolist() == [[2, 4]]
    assert session.inputs == {"x": (1, 2)}
    assert session.outputs == ("y",)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": np.zeros((1, 2), np.float32)}, r"expected inputs \['x'\], got \['image'\]; name"),
        ({}, r"expected inputs \['x'\], got \[\]"),
        ({"x": np.zeros((1, 2), np.float32), "z": np.zeros(1)}, r"got \['x', 'z'\]"),
        ({"x": np.zeros((2, 1), np.float32)}, "input 'x': expected float32 1x2, got float32 2x1; preprocess"),
        ({"x": np.zeros((1, 2))}, "expected float32 1x2, got float64 1x2"),
        ({"x": [[1.0, 2.0]]}, "expected an array, got list"),
    ],
    ids=["other name", "nothing", "one too many", "shape", "dtype", "list"],
)
def test_a_wrong_input_is_an_error_that_says_what_is_expected(inputs, message):
    session = FakeSession(double, {"x": (1, 2)}, ("y",))

    with pytest.raises(EngineError, match=message):
        session.run(inputs)


def test_a_dimension_that_may_vary_takes_any_size():
    check_inputs("here", {"x": InputSpec((-1, 3), FLOAT32)}, {"x": np.zeros((7, 3), np.float32)})

    with pytest.raises(EngineError, match=r"here, input 'x': expected float32 \?x3, got float32 7x4"):
        check_inputs("here", {"x": InputSpec((-1, 3), FLOAT32)}, {"x": np.zeros((7, 4), np.float32)})


def test_a_closed_session_does_not_run():
    session = FakeSession(double, {"x": (1, 2)}, ("y",))
    session.close()
    session.close()

    with pytest.raises(EngineError, match="expected an open session, got a closed one"):
        session.run({"x": np.zeros((1, 2), np.float32)})


def test_a_fake_session_holds_its_function_to_the_stated_outputs():
    with pytest.raises(EngineError, match=r"expected outputs \('z',\), got \('y',\)"):
        FakeSession(double, {"x": (1,)}, ("z",)).run({"x": np.zeros(1, np.float32)})


def test_a_long_error_becomes_one_short_line():
    assert one_line("a\n  b\tc") == "a b c"
    assert len(one_line("x" * 1000, limit=100)) == 100
