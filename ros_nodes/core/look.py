"""The stages of one batch, each with the moment at which it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from avcompress.spec import Array
from ros_nodes.core.served import Prepared, Served, finish, infer, prepare
from validation.predict import Prediction


class Looked(NamedTuple):
    """What was found in each image of a batch, when the stages ended, by the monotonic clock, and of what it was found.

    `prepared` and `outputs`: the engine's input and its outputs, of each image.
    """

    predictions: list[Prediction]
    prepared_ns: int
    inferred_ns: int
    finished_ns: int
    prepared: list[Prepared]
    outputs: list[Mapping[str, Array]]

    @property
    def ends(self) -> tuple[int, int, int]:
        """Of the three stages."""
        return self.prepared_ns, self.inferred_ns, self.finished_ns


def look(served: Served, images: Sequence[Array], now: Callable[[], int]) -> Looked:
    """Preprocess, infer and post-process images, (H, W, 3) uint8 RGB, together; raises what the engine raises."""
    prepared = [prepare(served, image) for image in images]
    prepared_ns = now()
    outputs = infer(served, prepared)
    inferred_ns = now()
    found = [finish(served, one, placed.geometry) for one, placed in zip(outputs, prepared, strict=True)]
    return Looked(found, prepared_ns, inferred_ns, now(), prepared, outputs)
