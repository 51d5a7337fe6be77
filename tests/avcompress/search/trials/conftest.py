"""A recipe with choices for the tiny network of the tests, and a runner that runs nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from avcompress.search.trials.process import Task, record_of
from avcompress.search.trials.record import Figures, Line, Record

CHOICES = [
    {"choose": [None, {"kind": "equalize"}]},
    {
        "kind": "ptq",
        "ranges": {"choose": ["mse", "minmax", "entropy", "moving_average"]},
        "keep_float": {"head": {"choose": [True, False]}},
    },
    {"choose": [None, {"kind": "correct_bias", "images": {"between": [1, 6]}}]},
]


@pytest.fixture
def searched(job: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write the job's recipe with choices, and what is given in its section `search`; the file."""

    def write(stages: Any = CHOICES, **search: Any) -> Path:
        section = {"budget_s": 600, "shares": [0.5, 1.0], "width": 4, "trials": 4, "sampler": "random", **search}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**job, "stages": stages, "search": section}, sort_keys=False))
        return path

    return write


@dataclass
class FakeRunner:
    """Answers at once; what a trial reaches follows from its recipe: the fewer float layers, the less accuracy.

    Attributes:
        floor: of the accuracy.
        statuses: by candidate, how its trials end where they are not judged.
        times: of the trials, in turn: as chance has them.
        ran: the tasks, in order.
    """

    floor: float = 0.0
    statuses: dict[int, str] = field(default_factory=dict)
    times: Iterator[float] | None = None
    ran: list[Task] = field(default_factory=list)

    def __call__(self, task: Task) -> Record:
        self.ran.append(task)
        status = self.statuses.get(task.number, "judged")
        found = record_of(task, status, 1.0, "" if status == "judged" else "as the test wants it")
        if status != "judged":
            return found
        accuracy = 0.9 - 0.1 * task.suggestion.get("stages[1].ranges", 0) / 3
        accuracy -= 0.05 * task.suggestion.get("stages[1].keep_float.head", 0)
        ms = next(self.times) if self.times is not None else 2.0
        figures = Figures(accuracy=accuracy, latency_ms=ms, size_bytes=100)
        miss = max(self.floor - accuracy, 0.0)
        line = Line(name="mIoU @ ort", measured=accuracy, sense=">=", limit=self.floor, miss=miss, timed=False)
        return found.model_copy(update={"figures": figures, "lines": (line,)})


@pytest.fixture
def fake_runner() -> type[FakeRunner]:
    """A runner that runs nothing."""
    return FakeRunner
