"""Pictures of the images that changed most for the worse, from the predictions of both networks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from calibration.source import Source
from engines.postprocess import Detections
from validation.changes import BoxChanges, Changes
from validation.mask_png import decode_mask
from validation.pictures import Names, Picture, Seen, Story, picture_boxes, picture_masks
from validation.predictions import BoxPredictions, MaskPredictions, Predictions

SHOWN = 6


class Compared(NamedTuple):
    """Two networks' predictions of the same images, and what changed between them."""

    reference: Predictions
    network: Predictions
    changes: Changes


def worst_pictures(
    source: Source, compared: Compared, called: tuple[str, str], most: int = SHOWN
) -> tuple[Picture, ...]:
    """The images with most change for the worse, worst first; none where nothing got worse.

    Args:
        source: the validation images, not corrupted.
        compared: on these images.
        called: what the reference and the network are.
        most: how many.

    Raises DataError when an image cannot be read any more.
    """
    reference, network, changes = compared
    classes = source.classes
    places = {name: index for index, name in enumerate(source.names)}
    if isinstance(changes, BoxChanges):
        if not (isinstance(reference, BoxPredictions) and isinstance(network, BoxPredictions)):
            raise TypeError("pictures: expected detections of both networks")
        return tuple(
            picture_boxes(
                source[places[found.name]],
                Seen(called[0], _of_image(reference, found.image, changes.threshold)),
                Seen(called[1], _of_image(network, found.image, changes.threshold)),
                _story(changes, found.image),
                classes,
            )
            for found in changes.worst[:most]
        )
    if not (isinstance(reference, MaskPredictions) and isinstance(network, MaskPredictions)):
        raise TypeError("pictures: expected masks of both networks")
    names = Names(*called, classes)
    return tuple(
        picture_masks(
            source[places[found.name]],
            decode_mask(reference.masks[found.index]),
            decode_mask(network.masks[found.index]),
            names,
        )
        for found in changes.worst[:most]
    )


def _of_image(found: BoxPredictions, image: int, threshold: float) -> Detections:
    kept = found.keep(np.logical_and(found.image == image, found.scores >= threshold))
    return Detections(kept.xyxy, kept.scores, kept.labels)


def _story(changes: BoxChanges, image: int) -> Story:
    return Story(
        lost=tuple(found for found in changes.lost if found.image == image),
        gained=tuple(found for found in changes.gained if found.image == image),
        new=tuple(found for found in changes.new_alarms if found.image == image),
    )
