"""A bundle that is loaded and warm, and the way of images through it, alone or several at once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avcompress.recipe import Detection, Task
from avcompress.spec import Array, EngineError
from calibration.preprocess import Geometry, preprocess
from engines.bundle import Trust, load_bundle
from engines.manifest import Manifest
from engines.postprocess import Finished, check_output
from engines.session import Session
from validation.predict import Prediction, finish_prediction, input_name

_GREY = 114


@dataclass(frozen=True, eq=False)
class Served:
    """An open engine with all that says how to use it; one thread at a time.

    Attributes:
        task: of the manifest, with the threshold from which the vehicle believes a box.
        input: the name of the session's only one.
        capacity: images in one inference, at most.
        batch: images that the engine always takes; None where it takes as many as come.
    """

    session: Session
    manifest: Manifest
    task: Task
    input: str
    capacity: int
    batch: int | None

    @property
    def name(self) -> str:
        """For people: yolox-nano revision 7, openvino."""
        return f"{self.manifest.name} revision {self.manifest.revision}, {self.manifest.backend}"

    @property
    def threshold(self) -> float:
        """The score from which a box is given; 0 for masks."""
        return self.task.score_threshold if isinstance(self.task, Detection) else 0.0


class Prepared(NamedTuple):
    """One image as the network's input, (1, 3, height, width) float32, and where it lies in there."""

    value: Array
    geometry: Geometry


def load_served(folder: Path, trust: Trust, batch: int, warmup: int) -> Served:
    """Verify a bundle, load its engine, and run it at every batch size up to `batch` that it takes.

    Raises EngineError for a bundle that is unsigned, altered, built for another GPU or version, or whose engine does
    not read or write what its manifest says; MissingError for one that this machine cannot run.
    """
    session, manifest = load_bundle(folder, trust)
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        served = serve(session, manifest, batch)
        warm_up(served, warmup)
        undo.pop_all()
    return served


def serve(session: Session, manifest: Manifest, batch: int) -> Served:
    """Hold an open engine against its manifest; raises EngineError where its inputs or outputs are others."""
    name = input_name(session, manifest.preprocess, several=True)
    _refuse_others(f"{manifest.name}, inputs", tuple(session.inputs), [tensor.name for tensor in manifest.inputs])
    _refuse_others(f"{manifest.name}, outputs", session.outputs, [tensor.name for tensor in manifest.outputs])
    fixed = session.inputs[name][0]
    if fixed == -1:
        return Served(session, manifest, _deployed(manifest.task), name, batch, None)
    return Served(session, manifest, _deployed(manifest.task), name, min(batch, fixed), fixed)


def _refuse_others(where: str, got: Sequence[str], expected: Sequence[str]) -> None:
    if sorted(got) != sorted(expected):
        raise EngineError(
            f"{where}: expected {', '.join(expected)}, as the manifest says, got {', '.join(got)}; build it again"
        )


def _deployed(task: Task) -> Task:
    # Boxes of lower scores suppress none of higher ones, so what is left is what the low threshold would leave.
    if isinstance(task, Detection):
        return task.model_copy(update={"score_threshold": task.deployed_threshold})
    return task


def warm_up(served: Served, runs: int) -> None:
    """Send grey images all the way, at every batch size; raises EngineError where an output is not as it must be."""
    size = served.manifest.preprocess.size
    grey = prepare(served, np.full((*size, 3), _GREY, np.uint8))
    for count in range(1, served.capacity + 1):
        for _ in range(runs):
            outputs = infer(served, [grey] * count)
        _check(served, outputs[0])
        for one in outputs:
            finish(served, one, grey.geometry)


def _check(served: Served, outputs: Mapping[str, Array]) -> None:
    if isinstance(outputs, Finished):
        return
    for name, value in outputs.items():
        check_output(name, value.shape, served.task, served.manifest.preprocess.size, len(served.manifest.classes))


def prepare(served: Served, image: Array) -> Prepared:
    """Bring an image, (H, W, 3) uint8 RGB, to the network's input; raises DataError for any other."""
    return Prepared(*preprocess(image, served.manifest.preprocess))


def infer(served: Served, batch: Sequence[Prepared]) -> list[Mapping[str, Array]]:
    """Run images together; each one's outputs, as of a batch of one. Raises EngineError as the session does."""
    if len(batch) == 1 and served.batch in {None, 1}:
        return [served.session.run({served.input: batch[0].value})]
    count = served.batch or len(batch)
    # An engine of a fixed batch computes the missing ones all the same: of zeros, which nobody looks at.
    values = np.zeros((count, *batch[0].value.shape[1:]), np.float32)
    np.concatenate([prepared.value for prepared in batch], out=values[: len(batch)])
    outputs = served.session.run({served.input: values})
    if isinstance(outputs, Finished) or any(value.shape[:1] != (count,) for value in outputs.values()):
        raise EngineError(
            f"{served.name}: expected outputs of {count} images, got others; export the network so that every output "
            "begins with the batch"
        )
    return [{name: value[i : i + 1] for name, value in outputs.items()} for i in range(len(batch))]


def finish(served: Served, outputs: Mapping[str, Array], geometry: Geometry) -> Prediction:
    """What one image's outputs say, in pixels of the image; raises EngineError for outputs that are not finite."""
    return finish_prediction(outputs, geometry, served.manifest.preprocess, served.task)
