"""The error that a change of a network leaves at its outputs: what a repair that learns is judged by in the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import onnx

from avcompress.shots import shots
from avcompress.spec import Array, Artifact, Batch
from engines.in_memory import open_model

IMAGES = 8
"""Images that networks are judged by, at most."""
_EVERY = 4  # learning takes the others


def held_out(model: onnx.ModelProto, batches: Iterable[Batch]) -> Iterator[Array]:
    """Every fourth image for a network, each (1, C, H, W): at most IMAGES, and the first one where there is no other.

    Raises DataError when there is none, or one does not fit the network's input.
    """
    source = model.graph.input[0].name
    first, found = None, 0
    for number, shot in enumerate(islice(shots(model, (), batches), IMAGES * _EVERY)):
        image = shot.values[source]
        first = image if number == 0 else first
        if number % _EVERY == 1:
            found += 1
            yield image
    if first is not None and not found:
        yield first


def better(before: Artifact, after: Artifact, images: Iterable[Array]) -> tuple[Artifact, str]:
    """Whichever network's outputs are nearer to the float network's on these images, and what to say of it."""
    errors = output_errors(before.reference, (before.model, after.model), images)
    gain = f" ({10 * math.log10(errors[1] / errors[0]):+.1f} dB)" if min(errors) > 0 else ""
    line = f"the network's outputs {errors[0]:.3g} -> {errors[1]:.3g}{gain}"
    if errors[1] <= errors[0]:
        return after, line
    return before, f"{line}, so that all is kept as it was"


def output_errors(
    reference: onnx.ModelProto, models: Sequence[onnx.ModelProto], images: Iterable[Array]
) -> tuple[float, ...]:
    """The mean squared error of each network's outputs, in parts of the float output's mean square.

    Every output counts the same; one whose size depends on values counts on images where it has the float one's size.
    """
    source = reference.graph.input[0].name
    sessions = [open_model(model) for model in models]
    float_session = open_model(reference, optimize=True)
    power = np.zeros(len(reference.graph.output))
    noise = np.zeros((len(models), len(power)))
    for image in images:
        expected = [value.astype(np.float64) for value in float_session.run(None, {source: image})]
        power += [np.square(value).sum() for value in expected]
        for row, session in zip(noise, sessions, strict=True):
            row += [_distance(*pair) for pair in zip(session.run(None, {source: image}), expected, strict=True)]
    return tuple((noise / np.where(power > 0, power, 1)).mean(1).tolist())


def _distance(value: Array, expected: Array) -> float:
    return float(np.square(value - expected).sum()) if value.shape == expected.shape else 0.0
