"""What a network's input and outputs look like in a few figures an image: cheap enough to be taken on the vehicle.

The same function is used on calibration images and, later, on those of a camera, so that the two can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from avcompress.recipe import Preprocess
from avcompress.spec import Array
from calibration.preprocess import Geometry

_GRID = 64
"""Rows and columns of the input that are looked at, about."""
_VALUES = 1 << 13
"""Values of an output that are looked at, about."""
_LUMA = {"red": 0.299, "green": 0.587, "blue": 0.114}


def input_figures(value: Array, geometry: Geometry, settings: Preprocess) -> dict[str, float]:
    """Figures of an input, in levels of the image, 0-255, as the arithmetic of `settings` undone gives them.

    Those of each colour: mean, spread (standard deviation), low and high; brightness (mean luma), and tint (mean of red
    less mean of blue), which tells channels that were exchanged. Padding is left out.

    Args:
        value: (1, 3, height, width) float32.
        geometry: where the image lies in it.
        settings: that it was made with.
    """
    levels = _levels(_inside(value, geometry), settings)
    means, spreads = levels.mean(axis=1), levels.std(axis=1)
    lows, highs = levels.min(axis=1), levels.max(axis=1)
    names = _colours(settings)
    found: dict[str, float] = {}
    for i, name in enumerate(names):
        found |= {
            f"{name}.mean": float(means[i]),
            f"{name}.spread": float(spreads[i]),
            f"{name}.low": float(lows[i]),
            f"{name}.high": float(highs[i]),
        }
    found["brightness"] = sum(_LUMA[name] * float(means[i]) for i, name in enumerate(names))
    found["tint"] = found["red.mean"] - found["blue.mean"]
    return found


def output_figures(outputs: Mapping[str, Array]) -> dict[str, float]:
    """Of each output: low, high and mean of a fixed sample of its values; nothing of those that are not float."""
    found: dict[str, float] = {}
    for name, value in outputs.items():
        if value.dtype == np.float32 and value.size:
            sample = _sample(value)
            found |= {
                f"{name}.low": float(sample.min()),
                f"{name}.high": float(sample.max()),
                f"{name}.mean": float(sample.mean()),
            }
    return found


def _colours(settings: Preprocess) -> tuple[str, str, str]:
    return ("red", "green", "blue") if settings.channels == "rgb" else ("blue", "green", "red")


def _inside(value: Array, geometry: Geometry) -> Array:
    """A grid of what the image covers: (3, pixels)."""
    top, left = int(geometry.offset_y), int(geometry.offset_x)
    height = max(round(geometry.scale_y * geometry.height), 1)
    width = max(round(geometry.scale_x * geometry.width), 1)
    image = value[0, :, top : top + height, left : left + width]
    return np.ascontiguousarray(image[:, :: -(-height // _GRID), :: -(-width // _GRID)]).reshape(len(image), -1)


def _levels(values: Array, settings: Preprocess) -> Array:
    mean = np.array(settings.mean, np.float32)[:, None]
    factor = np.array(settings.std, np.float32)[:, None] / np.float32(settings.scale)
    levels: Array = values * factor + mean
    return levels


def _sample(value: Array) -> Array:
    """Every n-th value, n without a divisor in common with the last axis: or whole columns would never be seen."""
    step = max(value.size // _VALUES, 1)
    while math.gcd(step, value.shape[-1]) > 1:
        step += 1
    return np.ascontiguousarray(value).reshape(-1)[::step]
