"""How people follow a run: bars with remaining time on a terminal, one plain line a step elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from avcompress.spec import Track, untracked

T = TypeVar("T")


class Watch(Protocol):
    """Follows the steps of a run."""

    def begin(self, steps: int) -> None:
        """A run of so many steps begins."""

    def step(self, title: str, reused: bool) -> AbstractContextManager[Track]:
        """Enter a step; the Track it yields follows the step's own loops."""
        ...

    def note(self, text: str) -> None:
        """Something that people should know."""


class SilentWatch:
    """Follows nothing."""

    def begin(self, steps: int) -> None:
        """Ignore it."""

    @contextmanager
    def step(self, title: str, reused: bool) -> Iterator[Track]:  # noqa: ARG002
        """Yield the Track that nobody watches."""
        yield untracked

    def note(self, text: str) -> None:
        """Ignore it."""


@dataclass
class PlainWatch:
    """One line when a step ends: for logs and CI."""

    console: Console
    steps: int = 0
    done: int = 0

    def begin(self, steps: int) -> None:
        """Start counting."""
        self.steps, self.done = steps, 0

    @contextmanager
    def step(self, title: str, reused: bool) -> Iterator[Track]:
        """Print the step's number, title and seconds when it ends."""
        self.done += 1
        start = time.monotonic()
        yield untracked
        took = "kept from the last run" if reused else f"{time.monotonic() - start:.1f} s"
        self.console.print(f"[{self.done}/{self.steps}] {title}: {took}", markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print it."""
        self.console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)


@dataclass
class BarWatch:
    """A bar for the step at work with its remaining time, above it the steps that are done."""

    console: Console
    steps: int = 0
    done: int = 0
    progress: Progress = field(init=False)

    def begin(self, steps: int) -> None:
        """Start counting."""
        self.steps, self.done = steps, 0

    @contextmanager
    def step(self, title: str, reused: bool) -> Iterator[Track]:
        """Show a bar while the step runs, and leave one line when it ends."""
        self.done += 1
        label = f"[dim]{self.done:>2}/{self.steps}[/] {title}"
        start = time.monotonic()
        with self._bars() as progress:
            task = progress.add_task(label, total=None)

            def track(items: Iterable[T], total: int | None = None) -> Iterator[T]:
                return _advance(progress, task, items, total)

            yield track
        took = "kept" if reused else f"{time.monotonic() - start:.1f} s"
        self.console.print(f"[green]✓[/] {label} [dim]{took}[/]", highlight=False)

    def note(self, text: str) -> None:
        """Print it."""
        self.console.print(f"[yellow]![/] {text}", highlight=False)

    def _bars(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )


def _advance(progress: Progress, task: TaskID, items: Iterable[T], total: int | None) -> Iterator[T]:
    progress.reset(task, total=total)
    for item in items:
        yield item
        progress.advance(task)
