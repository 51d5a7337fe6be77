"""A node's threads: a worker, a watchdog that no frame drives, one for the disk. Only they wait in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from engines.session import one_line
from ros_nodes.core.node import Node

_IDLE_S = 0.5
_AGAIN_S = 0.05
_PATIENCE_S = 5.0
_LAST_S = 1.0


class Threads:
    """Runs a node within a `with` block.

    Attributes:
        watch_every_s: how often the watchdog looks: a fraction of the deadline.
    """

    def __init__(self, node: Node, watch_every_s: float = 0.005) -> None:
        self._node, self.watch_every_s = node, watch_every_s
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Threads:
        self._start_worker()
        self._start("watchdog", self._watch)
        if self._node.settings.drift_samples is not None:
            self._start("samples", self._save)
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads; a worker that hangs is left behind, and ends with the process."""
        self._stop.set()
        end = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))

    def _start(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"avcompress {name}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _start_worker(self) -> None:
        self._generation = self._node.generation
        self._worker = self._start("worker", partial(self._work, self._generation))

    def _work(self, generation: int) -> None:
        while not self._stop.is_set() and self._node.generation == generation:
            self._serve()

    def _serve(self) -> None:
        try:
            self._node.wait(_IDLE_S)
            self._node.step()
        except Exception as error:  # a worker that ends would leave a node that looks well and serves nothing
            self._node.fail(f"worker: {one_line(error)}")
            self._stop.wait(_AGAIN_S)

    def _save(self) -> None:
        while not self._stop.wait(_IDLE_S):
            self._node.save_samples()
        # What the last images are kept for is only known when the worker is done with them.
        self._worker.join(_LAST_S)
        self._node.save_samples()

    def _watch(self) -> None:
        next_report = time.monotonic()
        while not self._stop.wait(self.watch_every_s):
            try:
                self._look_after()
            except Exception as error:  # nobody would see a deadline pass
                self._node.fail(f"watchdog: {one_line(error)}")
            if time.monotonic() >= next_report:
                self._node.report()
                next_report = time.monotonic() + self._node.settings.report_every_ms / 1e3

    def _look_after(self) -> None:
        self._node.watch()
        # Looked at first: it may end for either of the two reasons that are asked for next.
        ended = not self._worker.is_alive()
        if self._node.generation != self._generation:
            self._start_worker()
        elif ended and not self._stop.is_set():
            # By what is no Exception, such as a panic in a runtime.
            self._node.fail("worker: its thread has ended")
            self._start_worker()
