"""Tasks on the machines of a Ray cluster: the pool for more than one machine.

Ray moves work, tasks and results; every machine has this package installed, in this version. What a task reads beside
them travels within the work, where the work is `Movable`; no folder is shared.

Source: Ray's tasks, https://docs.ray.io/en/latest/ray-core/tasks.html; retries are counted here, so that a task that
takes its machine down does not take all of them down.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from avcompress import __version__
from avcompress.spec import MissingError, PeerError
from engines.onnx_graph import first_line

T = TypeVar("T")
R = TypeVar("R")
Lost = Callable[[Any, str], Any]
"""What a task gives that no machine finished; it is told the task, and how the last machine was lost."""
TRIES = 2
_KNOCK_S = 10.0
_END_S = 4.0
"""What is under way may take so long to end after an interrupt."""


@runtime_checkable
class Movable(Protocol):
    """Work that reads files."""

    def moved(self) -> Any:
        """The same work, that holds what it would read."""
        ...


@dataclass(frozen=True)
class RayPool:
    """The machines of a cluster that this process is connected to, see `connected`.

    Each task is sent to a machine: left to Ray, a larger one would take several where others wait for work.

    Attributes:
        at_a_time: tasks on each machine, which share its cores; None: one for each core.
        lost: see Lost; None: PeerError.
    """

    at_a_time: int | None = None
    lost: Lost | None = None

    @property
    def slots(self) -> int:
        """Tasks at a time, on all machines as they are now."""
        return sum(share.tasks for share in self._shares().values())

    def results(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """As they are finished; a task whose machine or process was lost is done once more, elsewhere if it can be.

        Raises PeerError when it was lost again, and whatever the work raises.
        """
        import ray

        box, key = ray.put(work.moved() if isinstance(work, Movable) else work), uuid.uuid4().hex
        left = [_Errand(number) for number in range(len(tasks))]
        away: dict[Any, _Errand] = {}
        gone: set[str] = set()
        try:
            while left or away:
                shares = self._shares(gone)
                for errand in _sendable(left, away, shares):
                    away[_sent(errand, shares[errand.machine], (key, [box], tasks[errand.number]))] = errand
                if not away:
                    number = left.pop(0).number
                    yield number, self._lost(tasks[number], "no machine is left")
                    continue
                (done,), _ = ray.wait(list(away), num_returns=1)
                errand = away.pop(done)
                found = self._found(done, errand, tasks[errand.number], gone)
                if found is None:
                    left.append(errand)
                else:
                    yield errand.number, found[0]
        finally:
            _cancel(list(away))

    def _found(self, done: Any, errand: _Errand, task: Any, gone: set[str]) -> tuple[Any] | None:
        """What came of an errand; None: it is to be sent again. A machine that it never came to is among the gone."""
        import ray

        try:
            return (ray.get(done),)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.TaskUnschedulableError:
            gone.add(errand.machine)
            return None
        except ray.exceptions.RayError as error:
            errand.lost_on.append(errand.machine)
            return None if len(errand.lost_on) < TRIES else (self._lost(task, first_line(error)),)

    def _shares(self, gone: Collection[str] = ()) -> dict[str, _Share]:
        """What each machine of the cluster takes, by its id."""
        import ray

        cores = {name: int(node["Resources"].get("CPU", 0)) for name, node in _machines(ray).items()}
        return {name: _share(count, self.at_a_time) for name, count in cores.items() if count and name not in gone}

    def _lost(self, task: Any, how: str) -> Any:
        if self.lost is not None:
            return self.lost(task, how)
        raise PeerError(
            f"search: expected the cluster to finish a task, it was lost {TRIES} times, the last time so: {how}; what "
            "is finished is kept: run it again"
        )


class _Share(NamedTuple):
    """Of a machine: how many tasks it takes at a time, and how many cores each has."""

    tasks: int
    cores: int


def _share(cores: int, at_a_time: int | None) -> _Share:
    """The largest equal parts of a machine's cores, whole ones: fewer tasks where it has fewer cores."""
    tasks = cores if at_a_time is None else min(at_a_time, cores)
    return _Share(tasks, cores // tasks)


@dataclass(eq=False)
class _Errand:
    """A task that is to be done.

    Attributes:
        number: of the task.
        machine: that it was sent to at last.
        lost_on: the machines that it was lost on.
    """

    number: int
    machine: str = ""
    lost_on: list[str] = field(default_factory=list)


def _sendable(left: list[_Errand], away: Mapping[Any, _Errand], shares: Mapping[str, _Share]) -> list[_Errand]:
    """Take as many of those left as there is room for, each with its machine: the one with the most room."""
    busy = Counter(errand.machine for errand in away.values())
    found: list[_Errand] = []
    for errand in list(left):
        room = {name: share.tasks - busy[name] for name, share in shares.items()}
        elsewhere = {name: count for name, count in room.items() if name not in errand.lost_on}
        machine, count = max((elsewhere or room or {"": 0}).items(), key=lambda item: item[1])
        if count > 0:
            errand.machine = machine
            busy[machine] += 1
            left.remove(errand)
            found.append(errand)
    return found


def _sent(errand: _Errand, share: _Share, arguments: tuple[Any, ...]) -> Any:
    """Send a task to its machine; what stands for its result."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(errand.machine, soft=False)
    remote: Any = ray.remote(num_cpus=share.cores, max_retries=0)(_do)
    return remote.options(scheduling_strategy=there).remote(*arguments)


@contextlib.contextmanager
def connected(address: str, at_a_time: int | None = None, look: Callable[[], str] | None = None) -> Iterator[RayPool]:
    """Connect to a cluster until the block ends.

    Args:
        address: `local` starts one of this machine alone, which ends with the block; `auto` or host:port: one that
            runs, of which this machine is a part.
        at_a_time: tasks on each machine, which share its cores; None: one for each core.
        look: is called on every machine before the work; what a machine lacks, or "".

    Raises MissingError without Ray, where no cluster answers, and where a machine lacks something.
    """
    ray = _ray()
    with _handlers_kept():
        _connect(ray, address)
    try:
        pool = RayPool(at_a_time)
        if not pool.slots:
            raise MissingError(f"--ray {address}: expected a machine with a processor for tasks, got none; start one")
        _look_at_all(ray, address, look)
        yield pool
    finally:
        ray.shutdown()


def everywhere(call: Callable[[], R], seconds: float = 60.0) -> dict[str, R | None]:
    """What a call gives on every machine that is there, by its name; None where it was lost, or took too long."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(num_cpus=0, max_retries=0)(_call)
    asked = {
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, node {node_id[:8]})": remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        ).remote(call)
        for node_id, node in _machines(ray).items()
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    return {name: _answer(ray, reference) for name, reference in asked.items()}


def _answer(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference, timeout=1)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError:
        return None


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report its use over the network
    # Of a cluster that is started here: latencies are measured in it. Ray's own is 15: all other programs come first.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingError(
            '--ray: expected the package ray, got nothing of that name; pip install "avcompress[ray]"'
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)  # it explains how it guards its ports
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        ray.init(address=address, logging_level="error", log_to_driver=False, configure_logging=False, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise MissingError(
            f"--ray {address}: expected a Ray cluster, got none that answers ({first_line(error)}); start one with "
            "`ray start --head`, or give --ray local"
        ) from error


def _knock(address: str) -> None:
    """Whether anything listens at host:port: Ray would find out in minutes; raises OSError."""
    host, found, port = address.rpartition(":")
    if found and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Signals mean what they meant before: Ray would end the process by its own way."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _machines(ray: Any) -> Mapping[str, Any]:
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}


def _look_at_all(ray: Any, address: str, look: Callable[[], str] | None) -> None:
    try:
        told = everywhere(_Look(__version__, look))
    except (ImportError, AttributeError, ray.exceptions.RaySystemError) as error:
        raise MissingError(
            f"--ray {address}: expected avcompress {__version__} on every machine, got {first_line(error)}; install it"
        ) from error
    for name, lack in told.items():
        if lack:
            raise MissingError(f"--ray {address}: {name}: {lack}")


@dataclass(frozen=True)
class _Look:
    """What a machine lacks, in words."""

    version: str
    further: Callable[[], str] | None

    def __call__(self) -> str:
        if __version__ != self.version:
            return f"expected avcompress {self.version} as here, got {__version__}; install the same version"
        return self.further() if self.further is not None else ""


def _cancel(references: Sequence[Any]) -> None:
    """End what is under way: trials end what they have started."""
    import ray

    for reference in references:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.cancel(reference)
    if references:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait(list(references), num_returns=len(references), timeout=_END_S, fetch_local=False)


def _call(call: Callable[[], R]) -> R:
    return call()


_held: dict[str, Callable[[Any], Any]] = {}
"""In a process of the cluster, the last work: fetched once, for it may hold whole networks."""


def _do(key: str, box: Sequence[Any], task: Any) -> Any:
    import ray

    if key not in _held:
        _held.clear()
        _held[key] = ray.get(box[0])
    return _held[key](task)
