"""The corruptions by name, each with its five severities, and what applies one to an image."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from avcompress.spec import Array, DataError, RecipeError
from validation.corruptions import camera, light, weather

VERSION = 1
"""Counts changes that change pictures."""

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32
"""The shortest side of an image that can be corrupted, in pixels."""


class _Kind(NamedTuple):
    """A function of (image, level, rng), and its level at each severity."""

    apply: Callable[[Array, Any, np.random.Generator], Array]
    levels: tuple[Any, ...]


_KINDS: Mapping[str, _Kind] = {
    "fog": _Kind(weather.fog, weather.FOG),
    "rain": _Kind(weather.rain, weather.RAIN),
    "night": _Kind(light.night, light.NIGHT),
    "glare": _Kind(light.glare, light.GLARE),
    "motion_blur": _Kind(camera.motion_blur, camera.MOTION_BLUR),
    "noise": _Kind(camera.noise, camera.NOISE),
    "jpeg": _Kind(camera.jpeg, camera.JPEG),
    "dirt": _Kind(camera.dirt, camera.DIRT),
    "exposure": _Kind(light.exposure, light.EXPOSURE),
    "under_exposure": _Kind(light.exposure, light.UNDER_EXPOSURE),
}

NAMES = tuple(_KINDS)


class Corruption(NamedTuple):
    """A corruption at one severity, 1-5."""

    name: str
    severity: int

    @property
    def slice(self) -> str:
        """What its slice is called: fog:3."""
        return f"{self.name}:{self.severity}"

    @property
    def level(self) -> NamedTuple:
        """The parameters of this severity; raises RecipeError for a name or severity that there is not."""
        level: NamedTuple = _kind(self.name).levels[_checked(self.name, self.severity) - 1]
        return level


def parse_corruptions(wanted: Mapping[str, Sequence[int]]) -> tuple[Corruption, ...]:
    """What `validation.corruptions` asks for, in its order, each once: {fog: [1, 3]} -> fog:1, fog:3.

    Raises RecipeError for an unknown name, with the nearest one, for a severity outside 1-5, or for none.
    """
    for name, severities in wanted.items():
        _kind(name)
        if not severities:
            raise RecipeError(f"corruptions.{name}: expected severities of 1-5, got none; write [3], or leave it out")
    found = (Corruption(name, _checked(name, number)) for name, numbers in wanted.items() for number in numbers)
    return tuple(dict.fromkeys(found))


def _kind(name: str) -> _Kind:
    if name not in _KINDS:
        close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.6)
        advice = f"did you mean {close[0]}?" if close else "name one of these"
        raise RecipeError(f"corruptions: expected one of {', '.join(NAMES)}, got {name!r}; {advice}")
    return _KINDS[name]


def _checked(name: str, severity: int) -> int:
    if severity not in SEVERITIES:
        raise RecipeError(f"corruptions.{name}: expected severities of 1-5, got {severity!r}; 3 is the middle")
    return severity


def corrupt(image: Array, name: str, severity: int, seed: int = 0) -> Array:
    """A corrupted copy of an image: the same bytes for the same arguments.

    The random part, such as where the glare is, depends on `seed` alone: a worse severity is the same weather, worse.

    Args:
        image: (H, W, 3) uint8, RGB, both sides 32 or more.
        name: one of NAMES.
        severity: 1-5.
        seed: 0 or more; see `image_seed`.

    Raises RecipeError for an unknown name or severity, DataError for another kind of image.

    Source: after ImageNet-C, Hendrycks and Dietterich, arXiv:1903.12261, with a road in mind.
    """
    level = Corruption(name, severity).level
    is_image = isinstance(image, np.ndarray) and image.ndim == 3 and image.dtype == np.uint8
    if not is_image or image.shape[2] != 3 or min(image.shape[:2]) < SMALLEST:
        got = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(
            f"{name}:{severity}: expected an RGB image, uint8 (H, W, 3) of {SMALLEST} pixels a side or more, got "
            f"{got}; convert it, or leave such images out"
        )
    rng = np.random.Generator(np.random.SFC64(seed))
    return _KINDS[name].apply(np.ascontiguousarray(image), level, rng)


def image_seed(name: str, corruption: str, seed: int) -> int:
    """The seed of one image of a set, by its name: its weather does not hang on its place, nor on other images."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{corruption}\0{name}".encode()).digest()[:8], "little")
