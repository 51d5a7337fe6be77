"""When a latency is measured, and when the last one still holds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avcompress.contract import Contract, Int8Term, Measure
from avcompress.judging import measuring
from avcompress.judging.measuring import time_all
from avcompress.state import State
from avcompress.steps import Steps
from avcompress.watch import SilentWatch
from validation.latency import ScenarioResult


@pytest.mark.parametrize("name", ["processors", "runtime_versions"])
def test_a_latency_is_of_one_machine_and_its_runtimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    timed: list[str] = []

    def time_session(*_: Any) -> ScenarioResult:
        timed.append("once")
        return ScenarioResult("single_stream", Measure(), (5.0,) * 30)

    monkeypatch.setattr(measuring, "time_session", time_session)

    def latency() -> None:
        contract = Contract(int8=Int8Term(min_macs=0.5))
        trial: Any = SimpleNamespace(
            contract=contract, source=SimpleNamespace(fingerprint="f"), running="r", measure=Measure()
        )
        subject: Any = SimpleNamespace(name="ort", key="k", open=opened)
        time_all(Steps(SilentWatch(), State(tmp_path)), trial, subject)

    latency()
    latency()
    assert len(timed) == 1
    monkeypatch.setattr(measuring, name, lambda: {"cpu": "another one"})
    latency()
    assert len(timed) == 2


@contextlib.contextmanager
def opened() -> Iterator[None]:
    yield
