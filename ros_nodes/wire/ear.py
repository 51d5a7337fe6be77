"""A thread that hands on what readers receive, as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclonedds.sub import DataReader

    from ros_nodes.wire.participant import Participant

_FOREVER_NS = (1 << 63) - 1
_AT_ONCE = 16
"""Samples taken in one call; a reader keeps no more than its depth."""

_AGAIN_S = 0.01

Hear = Callable[[bytes], None]


class Ear:
    """Waits outside of Python's lock: a listener would take it in the thread that receives, and hold up all the others.

    Whatever `hear` raises, `on_error` is told of it, and the next message is heard.
    """

    def __init__(
        self,
        participant: Participant,
        readers: Mapping[DataReader[Any], Hear],
        on_error: Callable[[str, Exception], None],
        name: str,
    ) -> None:
        from cyclonedds.core import GuardCondition, InstanceState, ReadCondition, SampleState, ViewState, WaitSet

        self._readers, self._on_error = dict(readers), on_error
        self._name, self._closed = name, False
        self._stop = GuardCondition(participant.dds)
        self._waiting = WaitSet(participant.dds)
        self._waiting.attach(self._stop)
        for reader in self._readers:
            self._waiting.attach(ReadCondition(reader, ViewState.Any | InstanceState.Any | SampleState.Any))
        self._thread = threading.Thread(target=self._listen, name=f"avcompress {name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hear nothing more; not from `hear`."""
        self._closed = True
        self._stop.set(True)
        self._thread.join()

    def _listen(self) -> None:
        while True:
            self._wait()
            if self._closed:
                return
            for reader, hear in self._readers.items():
                for sample in self._take(reader):
                    # What only says that a publisher is gone has no data.
                    if sample.sample_info.valid_data:
                        self._hand_on(reader, hear, sample.data)

    def _wait(self) -> None:
        try:
            self._waiting.wait(_FOREVER_NS)
        except Exception as error:  # what readers have can still be asked for, now and then
            self._on_error(self._name, error)
            time.sleep(_AGAIN_S)

    def _take(self, reader: DataReader[Any]) -> list[Any]:
        try:
            return list(reader.take(_AT_ONCE))
        except Exception as error:  # a thread that ends would leave the node deaf, and nobody would know
            self._on_error(reader.topic.name, error)
            time.sleep(_AGAIN_S)
            return []

    def _hand_on(self, reader: DataReader[Any], hear: Hear, data: bytes) -> None:
        try:
            hear(data)
        except Exception as error:  # what one message does must not silence the others
            self._on_error(reader.topic.name, error)
