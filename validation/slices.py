"""Parts of a validation set that are judged alone: small objects, far ones, dark images, the left third."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.contract import Validation
from avcompress.spec import Array, RecipeError
from validation.predictions import BoxPredictions
from validation.segmentation.bands import BANDS, Band
from validation.truth import Objects, Truth

EVERYWHERE = "all"
"""The slice that is the whole set."""

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""Square pixels, both ends included, as COCO has them: an object on a border is in both."""

MOST_VALUES = 32
"""An attribute or tag with more values than that names things, not conditions; it makes slices only when asked to."""

_DISTANCE = "distance_m"
_GRADES = ("none", "partly", "largely", "mostly", "unknown")


@dataclass(frozen=True, eq=False)
class Slice:
    """Part of a validation set.

    Attributes:
        name: as contracts name it: FAMILY:VALUE.
        images: (I,) bool, images that may have a part in it.
        objects: (N,) bool, the labelled objects in it; others are ignored. None: all of these images.
        detections: tells of predictions which of them, (M,) bool, would be in it; unmatched ones outside are no false
            alarms. None: all of these images.
        band: of masks, the part of each image whose pixels count; None: all.
    """

    name: str
    images: Array
    objects: Array | None = None
    detections: Callable[[BoxPredictions], Array] | None = None
    band: Band | None = None

    @property
    def is_everything(self) -> bool:
        """Whether it is the whole set, by whatever name."""
        return self.objects is None and self.band is None and bool(self.images.all())


def make_slices(truth: Truth, settings: Validation) -> tuple[Slice, ...]:
    """The whole set, then every slice that the labels tell and that holds an object that counts, family by family.

    Families are size, position and any attribute of the objects that is a word (occlusion, truncation) or `distance_m`;
    of masks, position alone; then brightness and any tag of the images. Where a tag has the name of another family,
    it gives way.

    Raises RecipeError when `settings.slices` asks for a family that the labels do not tell, or borders do not ascend.
    """
    for name, borders in (("distance_m", settings.distance_m), ("brightness", settings.brightness)):
        if any(low >= high for low, high in itertools.pairwise(borders)):
            raise RecipeError(f"validation.{name}: expected borders from low to high, got {list(borders)}; sort them")
    families = _families(truth, settings)
    wanted = settings.slices
    if wanted is None:
        wanted = tuple(name for name, parts in families.items() if len(parts) <= MOST_VALUES)
    everything = Slice(EVERYWHERE, np.ones(len(truth.names), np.bool_))
    parts = [part for family in dict.fromkeys(wanted) for part in _family(families, family)]
    return (everything, *(part for part in parts if images_with_part(part, truth).any()))


def images_with_part(part: Slice, truth: Truth) -> Array:
    """Which images, (I,) bool, have an object in the slice that counts; of masks, the slice's images."""
    objects = truth.objects
    if objects is None:
        return part.images
    held = np.bincount(objects.image[objects_in_part(part, truth)], minlength=len(truth.names)) > 0
    return np.asarray(held)


def objects_in_part(part: Slice, truth: Truth) -> Array:
    """Which labelled objects, (N,) bool, are in the slice and count: not ignored, of a class of the table."""
    objects = truth.objects
    if objects is None:
        raise ValueError("slices: expected labelled objects, got masks")
    known = (objects.labels >= 0) & (objects.labels < len(truth.classes))
    inside = known & ~objects.ignore & part.images[objects.image]
    return inside if part.objects is None else inside & part.objects


def _family(families: Mapping[str, tuple[Slice, ...]], name: str) -> tuple[Slice, ...]:
    if name in families:
        return families[name]
    close = difflib.get_close_matches(name, families, n=1, cutoff=0.0)
    raise RecipeError(
        f"validation.slices: expected what the labels tell ({', '.join(families)}), got {name!r}; "
        f"did you mean {close[0]!r}?"
    )


def _families(truth: Truth, settings: Validation) -> dict[str, tuple[Slice, ...]]:
    images = np.ones(len(truth.names), np.bool_)
    families: dict[str, tuple[Slice, ...]] = {}
    if truth.objects is not None:
        families |= _object_families(truth, truth.objects, settings)
    else:
        families["position"] = tuple(Slice(f"position:{name}", images, band=band) for name, band in BANDS.items())
    dark_to_bright = _bands(truth.brightness, settings.brightness, ("dark", "medium", "bright"))
    families["brightness"] = tuple(Slice(f"brightness:{name}", inside) for name, inside in dark_to_bright)
    for tag, values in truth.tags.items():
        families.setdefault(tag, tuple(Slice(f"{tag}:{value}", inside) for value, inside in _by_value(values)))
    return families


def _object_families(truth: Truth, objects: Objects, settings: Validation) -> dict[str, tuple[Slice, ...]]:
    images = np.ones(len(truth.names), np.bool_)
    families = {
        "size": tuple(
            Slice(f"size:{name}", images, _between(objects.area, *limits), _sized(*limits))
            for name, limits in SIZES.items()
        ),
        "position": tuple(
            Slice(
                f"position:{name}",
                images,
                _in_band(band, objects.xyxy, truth.sizes[objects.image]),
                _placed(band, truth),
            )
            for name, band in BANDS.items()
        ),
    }
    if _DISTANCE in objects.attributes:
        bands = _bands(objects.attributes[_DISTANCE], settings.distance_m, ("near", "middle", "far"))
        families["distance"] = tuple(Slice(f"distance:{name}", images, inside) for name, inside in bands)
    for name, values in objects.attributes.items():
        if values.dtype.kind == "U":
            parts = tuple(Slice(f"{name}:{value}", images, inside) for value, inside in _by_value(values))
            families.setdefault(name, parts)
    return families


def _by_value(values: Array) -> Iterator[tuple[str, Array]]:
    """Each word but the empty one with where it stands; degrees first, in their order, then the alphabet's."""
    words = [str(word) for word in np.unique(values) if word]
    for word in sorted(words, key=lambda word: (_GRADES.index(word) if word in _GRADES else len(_GRADES), word)):
        yield word, values == word


def _bands(values: Array, borders: Sequence[float], names: tuple[str, str, str]) -> Iterator[tuple[str, Array]]:
    """Each band with the values in it, lower end included; NaN is in none."""
    ends = (0.0, *borders, np.inf)
    labels = [f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}+" for low, high in itertools.pairwise(ends)]
    for label, (low, high) in zip(names if len(borders) == 2 else labels, itertools.pairwise(ends), strict=True):
        yield label, (values >= low) & (values < high)


def _between(areas: Array, low: float, high: float) -> Array:
    return (areas >= low) & (areas <= high)


def _sized(low: float, high: float) -> Callable[[BoxPredictions], Array]:
    def sized(found: BoxPredictions) -> Array:
        sides = found.xyxy[:, 2:].astype(np.float64) - found.xyxy[:, :2]
        return _between(sides[:, 0] * sides[:, 1], low, high)

    return sized


def _placed(band: Band, truth: Truth) -> Callable[[BoxPredictions], Array]:
    return lambda found: _in_band(band, found.xyxy, truth.sizes[found.image])


def _in_band(band: Band, xyxy: Array, sizes: Array) -> Array:
    """Whether each box has its centre in the band of its image; one beyond the edge is in the outermost."""
    first = 1 - band.axis  # boxes tell x first, sizes height first
    centres = (xyxy[:, first].astype(np.float64) + xyxy[:, first + 2]) / 2
    thirds = np.clip(np.floor(3 * centres / sizes[:, band.axis]), 0, 2)
    return np.asarray(thirds == band.third)
