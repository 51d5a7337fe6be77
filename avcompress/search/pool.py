"""Where tasks are done: one after the other here, or in several processes of this machine.

A pool is given the work once and many tasks; work, tasks and results are pickled. It yields results as they come, in no
order. What a task gives depends on nothing but the work and the task: never on the pool.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from avcompress.spec import PeerError

T = TypeVar("T")
R = TypeVar("R")


class Pool(Protocol):
    """What does tasks."""

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Every task's number and what `work` gives for it."""
        ...


@dataclass(frozen=True)
class Here:
    """This process."""

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """In order."""
        yield from ((number, work(task)) for number, task in enumerate(tasks))


@dataclass(frozen=True)
class Processes:
    """So many processes beside this one, each of which should use one core.

    They are started anew, not forked: runtimes that hold threads do not survive a fork. So whatever starts them must
    be a module that can be imported again.
    """

    count: int

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """As they are finished; raises PeerError when a process ends before its task."""
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(self.count, len(tasks)) or 1, context, initializer=_take, initargs=(work,))
        try:
            numbers = {pool.submit(_do, task): number for number, task in enumerate(tasks)}
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        except BrokenProcessPool as error:
            raise PeerError(
                f"search: expected {self.count} processes to go on, one has ended, killed perhaps for its memory; what "
                "is finished is kept: run it again, with fewer processes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_held: dict[str, Callable[[Any], Any]] = {}
"""In a process of a pool, its work: given once, for it may hold whole networks."""


def _take(work: Callable[[Any], Any]) -> None:
    _held["work"] = work


def _do(task: Any) -> Any:
    return _held["work"](task)
