"""Where tasks are done: one after the other here, or in several processes of this machine.

A pool is given the work once and many tasks; work, tasks and results are pickled. It yields results as they come, in no
order. What a task gives depends on nothing but the work and the task: never on the pool.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar

from avcompress.spec import PeerError

T = TypeVar("T")
R = TypeVar("R")
_END_S = 15.0
"""What is under way may take so long to clean up behind itself; a trial that is ended takes 10 s, at most."""


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
    be a module that can be imported again. None outlives the iteration, or this process, whatever ends them.
    """

    count: int

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """As they are finished; raises PeerError when a process ends before its task."""
        context = multiprocessing.get_context("spawn")
        theirs, ours = context.Pipe(duplex=False)
        count = min(self.count, len(tasks)) or 1
        pool = ProcessPoolExecutor(count, context, initializer=_take, initargs=(work, theirs))
        try:
            with ours:  # nobody else has this end: once it is closed, by a kill, too, all of them end
                numbers = {pool.submit(_do, task): number for number, task in enumerate(tasks)}
                for future in as_completed(numbers):
                    yield numbers[future], future.result()
                pool.shutdown()
        except BrokenProcessPool as error:
            raise PeerError(
                f"search: expected {self.count} processes to go on, one has ended, killed perhaps for its memory; what "
                "is finished is kept: run it again, with fewer processes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
            theirs.close()


# --- in a process of a pool


_held: dict[str, Callable[[Any], Any]] = {}
"""Its work, given once, for it may hold whole networks; and the same again as long as it is at it."""


class _Left(SystemExit):
    """Raised where it is at work, so that what cleans up behind itself does: trials end what they have started."""


def _take(work: Callable[[Any], Any], theirs: Connection) -> None:
    _held["work"] = work
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    threading.Thread(target=_follow, args=(theirs,), daemon=True).start()


def _follow(theirs: Connection) -> NoReturn:
    """End this process with the one that started it, or once that one wants no more."""
    theirs.poll(None)  # nothing ever comes but the end
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(_END_S)
    os._exit(1)


def _leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    if "at work" in _held:
        raise _Left(1)
    os._exit(1)


def _do(task: Any) -> Any:
    try:
        _held["at work"] = _held["work"]
        return _held["at work"](task)
    except _Left:
        os._exit(1)  # the executor would take it for what the task gives, and go on with the next one
    finally:
        _held.pop("at work", None)
