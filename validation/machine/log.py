"""A log of the machine's state around a measurement, and while it lasts where that is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from validation.machine.jetson import read_jetson
from validation.machine.kernel import read_kernel
from validation.machine.nvml import read_nvml
from validation.machine.state import MachineState

ReadState = Callable[[], MachineState]


@dataclass(frozen=True)
class MachineLog:
    """Looks at the machine, in order: before, during where that was asked for, and after."""

    states: tuple[MachineState, ...] = ()


@dataclass
class Recording:
    """A log that is being written; `log` is whole after the block of `logged`."""

    states: list[MachineState] = field(default_factory=list)

    @property
    def log(self) -> MachineLog:
        """What was seen so far, in order."""
        # The last look does not wait for one that the thread is taking.
        return MachineLog(tuple(sorted(self.states, key=lambda state: state.at_s)))


def read_state(root: Path = Path("/")) -> MachineState:
    """Look at the machine once: some milliseconds, most of it in files of the kernel; never raises.

    Args:
        root: holds sys, proc, etc and var; NVML is asked where it is the machine's own.
    """
    kernel, jetson = read_kernel(root), read_jetson(root)
    nvml = read_nvml() if root == Path("/") else {"gpus": (), "counters": {}}
    # On a Jetson NVML knows the integrated GPU, too, but not its clock.
    gpus = jetson["gpus"] or nvml["gpus"]
    counters = {**kernel["counters"], **nvml["counters"]}
    return MachineState(at_s=time.monotonic(), **{**kernel, **jetson, "gpus": gpus, "counters": counters})


@contextmanager
def logged(read: ReadState = read_state, every_s: float | None = None) -> Iterator[Recording]:
    """Look at the machine before and after the block, and with `every_s` from a thread meanwhile.

    That thread takes the interpreter from what is measured for as long as a look lasts; docs/latency.md says how long.
    """
    recording = Recording([read()])
    stop = threading.Event()
    thread = threading.Thread(target=_look, args=(recording, read, every_s, stop), daemon=True)
    if every_s is not None:
        thread.start()
    try:
        yield recording
        # At once: what was hot cools down, and its clock recovers.
        last = read()
    finally:
        stop.set()
        if every_s is not None:
            thread.join()
    recording.states.append(last)


def _look(recording: Recording, read: ReadState, every_s: float, stop: threading.Event) -> None:
    while not stop.wait(every_s):
        recording.states.append(read())
