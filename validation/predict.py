"""From images to predictions in their own coordinates: the one path of accuracy, of latency, and of the vehicle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from avcompress.recipe import Preprocess, Task
from avcompress.spec import Array, EngineError
from calibration.preprocess import Geometry, mask_to_image, preprocess, to_image
from engines.postprocess import ClassMap, Detections, postprocess

if TYPE_CHECKING:
    from calibration.sample import Sample
    from engines.session import Session

Prediction = Detections | ClassMap
"""Boxes in pixels of the image, or a mask of its size."""


class _Placed(NamedTuple):
    """What travels from stage to stage: the stage's value, and where the image lies in the network's input."""

    value: Any
    geometry: Geometry


def predict(
    session: Session, samples: Iterable[Sample], settings: Preprocess, task: Task
) -> Iterator[tuple[Sample, Prediction]]:
    """Run every sample through the session; lazy, in order, one image at a time.

    Boxes are in pixels of the sample's image and clipped to it, masks are (H, W) of its size.
    Raises EngineError when the session has not exactly one input of the recipe's size.
    """
    functions = stages(session, settings, task).values()
    for sample in samples:
        value: Any = sample.image
        for function in functions:
            value = function(value)
        yield sample, value


def stages(session: Session, settings: Preprocess, task: Task) -> Mapping[str, Callable[[Any], Any]]:
    """The stages of `predict` by name, each fed what the one before returned: an RGB image first, a prediction last."""
    name = input_name(session, settings)

    def prepare(image: Array) -> _Placed:
        return _Placed(*preprocess(image, settings))

    def infer(placed: _Placed) -> _Placed:
        return _Placed(session.run({name: placed.value}), placed.geometry)

    def finish(placed: _Placed) -> Prediction:
        return finish_prediction(placed.value, placed.geometry, settings, task)

    return {"preprocess": prepare, "inference": infer, "postprocess": finish}


def input_name(session: Session, settings: Preprocess, several: bool = False) -> str:
    """The name of the session's only input; raises EngineError unless it takes images of the recipe's size.

    `several`: it may take more than one image at once.
    """
    if len(session.inputs) != 1:
        raise EngineError(
            f"engine: expected one image input, got {len(session.inputs)}: {', '.join(session.inputs)}; "
            "export the network with the image as its only input"
        )
    ((name, shape),) = session.inputs.items()
    wanted = (shape[0] if several and shape else 1, 3, *settings.size)
    if len(shape) != 4 or any(side not in (-1, want) for side, want in zip(shape, wanted, strict=True)):
        raise EngineError(
            f"engine: expected an input of {wanted}, got {name} of {tuple(shape)}; set `preprocess.size` to fit it"
        )
    return name


def finish_prediction(outputs: Mapping[str, Array], geometry: Geometry, settings: Preprocess, task: Task) -> Prediction:
    """What one image's raw outputs say, in pixels of the image; raises EngineError as `postprocess` does."""
    found = postprocess(outputs, task, settings.size)
    if isinstance(found, Detections):
        return Detections(to_image(found.xyxy, geometry), found.scores, found.labels)
    return mask_to_image(found, geometry, settings)
