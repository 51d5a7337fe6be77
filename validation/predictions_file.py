"""Predictions as a file: an npz of plain arrays, and facts about them as JSON; nothing in it is executed when read."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import JsonValue, ValidationError

from avcompress.files import write_atomically
from avcompress.frozen import Model
from avcompress.spec import Array, DataError
from validation.predictions import BoxPredictions, MaskPredictions, Predictions

VERSION = 1
_ZIP = b"PK\x03\x04"
_BOXES = {"image": (np.int64, 1), "xyxy": (np.float32, 2), "scores": (np.float32, 1), "labels": (np.int64, 1)}
_MASKS = {"png": (np.uint8, 1), "ends": (np.int64, 1)}
"""The type and the number of dimensions of each array; `ends`: where each image's PNG ends within all of them."""


class _Header(Model):
    schema_version: Literal[1] = 1
    kind: Literal["boxes", "masks"]
    names: tuple[str, ...]
    about: dict[str, JsonValue]


def save_predictions(path: Path, found: Predictions, about: Mapping[str, Any]) -> None:
    """Write predictions, and what is to be known of them as JSON values, whole or not at all; raises OutputError."""
    write_atomically(path, to_bytes(found, about))


def load_predictions(path: Path) -> tuple[Predictions, Mapping[str, Any]]:
    """The predictions that save_predictions wrote, and what is known of them; raises DataError in one line."""
    try:
        return from_bytes(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path}: expected a readable file of predictions, got {error.strerror}; check the path"
        ) from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def to_bytes(found: Predictions, about: Mapping[str, Any]) -> bytes:
    """The content of a file of predictions."""
    if isinstance(found, BoxPredictions):
        kind, arrays = "boxes", {name: getattr(found, name) for name in _BOXES}
    else:
        ends = np.cumsum([len(png) for png in found.masks], dtype=np.int64)
        kind, arrays = "masks", {"png": np.frombuffer(b"".join(found.masks), np.uint8), "ends": ends}
    header = _Header.model_validate({"kind": kind, "names": found.names, "about": dict(about)}).model_dump_json()
    file = io.BytesIO()
    np.savez_compressed(file, header=np.frombuffer(header.encode(), np.uint8), **arrays)
    return file.getvalue()


def from_bytes(data: bytes) -> tuple[Predictions, Mapping[str, Any]]:
    """What to_bytes was given; raises DataError for anything else."""
    if not data.startswith(_ZIP):
        raise DataError("expected predictions as avcompress saves them, got something else; check the path")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = dict(archive)
        content = json.loads(arrays.pop("header").tobytes())
        version = content["schema_version"]
    except Exception as error:  # damaged archives make the readers raise nearly anything
        raise DataError(
            "expected whole predictions, got a truncated, damaged or foreign file; save it again"
        ) from error
    if version != VERSION:
        raise DataError(
            f"expected predictions of version {VERSION}, got {version!r}; use the avcompress that wrote them"
        )
    try:
        header = _Header.model_validate(content)
        found = _boxes(header.names, arrays) if header.kind == "boxes" else _masks(header.names, arrays)
    except (ValidationError, ValueError) as error:
        raise DataError(
            f"expected predictions that fit together, got {type(error).__name__}; save them again"
        ) from error
    return found, header.about


def _boxes(names: tuple[str, ...], arrays: Mapping[str, Array]) -> BoxPredictions:
    _require(arrays, _BOXES)
    image, count = arrays["image"], len(arrays["image"])
    if any(len(array) != count for array in arrays.values()) or arrays["xyxy"].shape[1] != 4:
        raise ValueError("lengths")
    if count and (image[0] < 0 or image[-1] >= len(names) or (np.diff(image) < 0).any()):
        raise ValueError("images")
    return BoxPredictions(names, **arrays)


def _masks(names: tuple[str, ...], arrays: Mapping[str, Array]) -> MaskPredictions:
    _require(arrays, _MASKS)
    png, ends = arrays["png"].tobytes(), arrays["ends"].tolist()
    if len(ends) != len(names) or sorted([0, *ends, len(png)]) != [0, *ends, len(png)]:
        raise ValueError("ends")
    return MaskPredictions(names, tuple(png[start:end] for start, end in zip([0, *ends], ends, strict=False)))


def _require(arrays: Mapping[str, Array], wanted: Mapping[str, tuple[Any, int]]) -> None:
    """Raises ValueError for missing arrays, further ones, or ones of another kind."""
    found: Sequence[tuple[str, Any, int]] = sorted((name, array.dtype, array.ndim) for name, array in arrays.items())
    if found != sorted((name, np.dtype(kind), dimensions) for name, (kind, dimensions) in wanted.items()):
        raise ValueError("arrays")
