"""A clock that stands still unless somebody waits or works."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent)]

from fake_time import FakeTime  # noqa: E402


@pytest.fixture
def fake() -> FakeTime:
    """A fresh clock."""
    return FakeTime()
