"""How far a build is: the child writes what the builder reports as events, the parent makes a fraction of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

FILE = "progress.tsv"
_TIMING = "Timing"
_LAYERS = re.compile(r"After .*: (\d+) layers")
_TIMED = re.compile(r"=+ Computing costs for ")


def start(phase: str, parent: str | None, steps: int) -> str:
    """The event of a phase that begins."""
    return f"start\t{_plain(phase)}\t{_plain(parent or '')}\t{steps}\n"


def step(phase: str, done: int) -> str:
    """The event of a step that is done, counted from 0."""
    return f"step\t{_plain(phase)}\t{done}\n"


def finish(phase: str) -> str:
    """The event of a phase that has ended."""
    return f"finish\t{_plain(phase)}\n"


def _plain(text: str) -> str:
    return " ".join(text.split())


@dataclass
class LogProgress:
    """Events out of the messages of a builder without a progress monitor: TensorRT 8 times its layers one by one."""

    write: Callable[[str], object]
    layers: int = 0
    timed: int = 0

    def message(self, text: str) -> None:
        """Look at one message of the builder."""
        if found := _LAYERS.search(text):
            self.layers = int(found[1])
        elif _TIMED.search(text):
            if not self.timed:
                self.write(start(_TIMING, None, max(self.layers, 1)))
            self.write(step(_TIMING, self.timed))
            self.timed += 1


@dataclass
class _Phase:
    parent: str
    steps: int
    done: int = 0


@dataclass
class Progress:
    """Follows the events: a phase counts as much of its parent as one of the parent's steps."""

    phases: dict[str, _Phase] = field(default_factory=dict)
    fraction: float = 0.0

    def event(self, line: str) -> None:
        """Take one line; what is half written or of another kind is passed over."""
        match line.split("\t"):
            case ["start", phase, parent, steps] if steps.isdecimal():
                self.phases[phase] = _Phase(parent, max(int(steps), 1))
            case ["step", phase, done] if phase in self.phases and done.isdecimal():
                self.phases[phase].done = int(done) + 1
            case ["finish", phase] if phase in self.phases:
                ended = self.phases.pop(phase)
                self.fraction = max(self.fraction, self._up(ended.parent, 0.0))
                return
            case _:
                return
        # Phases of one level follow each other: what was reached never shrinks.
        self.fraction = max(self.fraction, *(self._up(name, 0.0) for name in self.phases))

    def _up(self, name: str, inner: float) -> float:
        """The whole build's fraction when the step at work in a phase has come so far."""
        seen: set[str] = set()
        while name in self.phases and name not in seen:
            seen.add(name)
            phase = self.phases[name]
            inner = min((phase.done + inner) / phase.steps, 1.0)
            name = phase.parent
        return inner


@dataclass
class ProgressFile:
    """The events in a file that may appear late, and grows."""

    path: Path
    progress: Progress = field(default_factory=Progress)
    read: int = 0
    rest: str = ""

    def percent(self) -> int:
        """What is done, 0 to 99: the child's end says when it is all."""
        if self.path.is_file():
            with self.path.open("rb") as handle:
                handle.seek(self.read)
                new = handle.read()
            self.read += len(new)
            *lines, self.rest = (self.rest + new.decode("utf-8", "replace")).split("\n")
            for line in lines:
                self.progress.event(line)
        return min(int(100 * self.progress.fraction), 99)
