"""The steps of a job: watched, timed, and kept on disk for the next run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from avcompress import ranks
from avcompress.files import private_folder
from avcompress.spec import Track
from avcompress.state import State
from avcompress.watch import Watch


class Step(NamedTuple):
    """A step that this job has passed."""

    name: str
    title: str
    seconds: float


@dataclass(frozen=True)
class Steps:
    """Takes steps one after the other.

    Attributes:
        watch: follows them.
        state: keeps what they gave.
        passed: those that were taken, in order.
    """

    watch: Watch
    state: State
    passed: list[Step] = field(default_factory=list)

    def take(
        self,
        name: str,
        title: str,
        key: str,
        compute: Callable[[Path, Track], None],
        still: bool = False,
        together: bool = False,
    ) -> Path:
        """Take one step, or keep its results from the last run; returns the folder that holds them.

        Of several processes the first one takes it, and the others wait. `still`: something is timed in it;
        `together`: all processes compute, and the first one's results are kept.
        """
        reused = bool(ranks.agreed(self.state.seconds(name, key) is not None))
        with self.watch.step(title, reused, still) as track:
            folder = self.state.folder / name
            if ranks.leads():
                self.state.step(name, key, lambda folder: compute(folder, track))
            elif together and not reused:
                with private_folder() as scratch:
                    compute(scratch, track)
            ranks.wait()
        self.passed.append(Step(name, title, self.state.seconds(name, key) or 0.0))
        return folder
