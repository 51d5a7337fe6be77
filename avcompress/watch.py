"""How people follow a run: bars with remaining time on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from avcompress.spec import Track, untracked
from avcompress.symbols import spelled, tick

T = TypeVar("T")

BEATS = 4
"""Refreshes a second of the display."""
LOG_EVERY_S = 60.0
"""How often a log hears of a long step."""
BAR_WIDTH = 24


class Watch(Protocol):
    """Follows the steps of a run."""

    def begin(self, steps: int) -> None:
        """A run of so many steps begins."""

    def step(self, title: str, reused: bool, still: bool = False) -> AbstractContextManager[Track]:
        """Enter a step; the Track it yields follows the step's own loops.

        `still`: something is timed in it, so nothing may move but what a Track moves.
        """
        ...

    def note(self, text: str) -> None:
        """Something that people should know."""


class SilentWatch:
    """Follows nothing."""

    def begin(self, steps: int) -> None:
        """Ignore it."""

    @contextmanager
    def step(self, title: str, reused: bool, still: bool = False) -> Iterator[Track]:  # noqa: ARG002
        """Yield the Track that nobody watches."""
        yield untracked

    def note(self, text: str) -> None:
        """Ignore it."""


@dataclass
class Loop:
    """A loop that is being consumed; `total` is None where nobody knows."""

    total: int | None = None
    done: int = 0
    start: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float | None:
        """The seconds that remain at the mean pace so far; None where nothing is known of it."""
        if not self.total or not self.done:
            return None
        return (time.monotonic() - self.start) / self.done * max(self.total - self.done, 0)

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", about {clock(self.left_s)} left"
        return f"{self.done}/{self.total or '?'}{left}"


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def took(seconds: float) -> str:
    """How long a step took, for people."""
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


@dataclass
class PlainWatch:
    """One line when a step ends, and one a minute in a long loop: for logs and CI."""

    console: Console
    steps: int = 0
    done: int = 0

    def begin(self, steps: int) -> None:
        """Start counting."""
        self.steps, self.done = steps, 0

    @contextmanager
    def step(self, title: str, reused: bool, still: bool = False) -> Iterator[Track]:  # noqa: ARG002
        """Print the step's number, title and seconds when it ends."""
        self.done += 1
        start = time.monotonic()
        label = f"[{self.done}/{self.steps}] {title}"

        def track(items: Iterable[T], total: int | None = None) -> Iterator[T]:
            return self._follow(label, items, Loop(total))

        yield track
        self._print(f"{label}: {'kept from the last run' if reused else took(time.monotonic() - start)}")

    def note(self, text: str) -> None:
        """Print it."""
        self._print(f"note: {text}")

    def _follow(self, label: str, items: Iterable[T], loop: Loop) -> Iterator[T]:
        last = loop.start
        for item in items:
            yield item
            loop.done += 1
            if time.monotonic() - last >= LOG_EVERY_S:
                last = time.monotonic()
                self._print(f"{label}: {loop}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass
class BarWatch:
    """A bar for the step at work and one for the whole run; above them the steps that are done."""

    console: Console
    steps: int = 0
    done: int = 0
    start: float = 0.0

    def begin(self, steps: int) -> None:
        """Start counting."""
        self.steps, self.done, self.start = steps, 0, time.monotonic()

    @contextmanager
    def step(self, title: str, reused: bool, still: bool = False) -> Iterator[Track]:
        """Show the bars while the step runs, and leave one line when it ends."""
        start = time.monotonic()
        display = _Display(self, title, start, "the display rests while it is timed" if still else "")
        live = Live(display, console=self.console, refresh_per_second=BEATS, auto_refresh=not still, transient=True)

        def track(items: Iterable[T], total: int | None = None) -> Iterator[T]:
            display.loop = Loop(total)
            return _follow(live, display.loop, items)

        with live:
            live.refresh()
            yield track
        self.done += 1
        spent = "kept from the last run" if reused else took(time.monotonic() - start)
        mark = f"[green]{tick(self.console)}[/]"
        self.console.print(
            f"{mark} [dim]{self.done:>{len(str(self.steps))}}/{self.steps}[/] {escape(title)} [dim]{spent}[/]",
            highlight=False,
        )

    def note(self, text: str) -> None:
        """Print it."""
        self.console.print(f"[yellow]![/] {escape(text)}", highlight=False)


def _follow(live: Live, loop: Loop, items: Iterable[T]) -> Iterator[T]:
    last = 0.0
    for item in items:
        yield item
        loop.done += 1
        # Where a thread refreshes, too, the two take turns; where none does, this is what moves the bar.
        if not live.auto_refresh and time.monotonic() - last >= 1 / BEATS:
            last = time.monotonic()
            live.refresh()


@dataclass
class _Display:
    """What the terminal shows of the step at work: three short lines, whatever the terminal's width."""

    watch: BarWatch
    title: str
    start: float
    hint: str
    loop: Loop | None = None

    def __rich__(self) -> RenderableType:
        """Draw it, with the times of this moment."""
        now, watch = time.monotonic(), self.watch
        dash = spelled(watch.console, "›", ">")
        grid = Table.grid(padding=(0, 1))
        total, done = (self.loop.total, self.loop.done) if self.loop else (None, 0)
        left = self.loop.left_s if self.loop else None
        counted = f"{done}/{total}" if total else self.hint
        ahead = "" if left is None else f"about {clock(left)} left"
        # Nothing pulses where nothing is counted: a still bar of no length says less and disturbs nobody.
        bar = ProgressBar(total=total or 1, completed=min(done, total or 0), width=BAR_WIDTH)
        grid.add_row("  step", bar, clock(now - self.start), counted, ahead)
        whole = ProgressBar(total=watch.steps or 1, completed=watch.done, width=BAR_WIDTH)
        grid.add_row("  run", whole, clock(now - watch.start), f"step {watch.done + 1} of {watch.steps}", "")
        title = Text.assemble((dash, "cyan"), " ", self.title, overflow="ellipsis", no_wrap=True)
        return Group(title, grid)
