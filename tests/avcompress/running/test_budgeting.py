"""Which of several tries keeps a budget best."""

import pytest

from avcompress.running.budgeting import _best, _Try


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        ((10.4, 9.1, 9.9), 9.9),  # the slowest that keeps it
        ((9.0, 10.1), 9.0),  # what is too slow is none
        ((12.0, 11.0), 11.0),  # none does: the nearest
    ],
)
def test_the_slowest_network_that_keeps_the_limit_is_taken(measured, wanted):
    tries = [_Try({"a": (i,)}, 10.0, ms) for i, ms in enumerate(measured)]

    assert _best(tries, 10.0).measured_ms == wanted
