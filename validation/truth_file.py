"""The labels of a validation set on disk: what a resumed run reads instead of the images."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avcompress.files import write_atomically
from avcompress.spec import Array
from validation.truth import Objects, Truth

_COLUMNS = ("image", "xyxy", "labels", "ignore", "area")


def save_truth(path: Path, truth: Truth) -> None:
    """Write a Truth as an npz without pickle; raises OutputError."""
    objects = truth.objects
    attributes = {} if objects is None else dict(objects.attributes)
    about = {
        "names": truth.names,
        "classes": truth.classes,
        "fingerprint": truth.fingerprint,
        "tags": list(truth.tags),
        "attributes": list(attributes),
        "boxes": objects is not None,
        "masks": truth.masks is not None,
    }
    arrays = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "sizes": truth.sizes,
        "brightness": truth.brightness,
        **_numbered("tag", truth.tags),
        **_numbered("attribute", attributes),
        **({} if objects is None else {name: getattr(objects, name) for name in _COLUMNS}),
        **({} if truth.masks is None else _packed(truth.masks)),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def load_truth(path: Path) -> Truth:
    """Read what save_truth wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        about: dict[str, Any] = json.loads(arrays["about"].tobytes())
        attributes = {name: arrays[f"attribute{i}"] for i, name in enumerate(about["attributes"])}
        columns = {name: arrays[name] for name in _COLUMNS if about["boxes"]}
        return Truth(
            names=tuple(about["names"]),
            classes=tuple(about["classes"]),
            fingerprint=about["fingerprint"],
            sizes=arrays["sizes"],
            brightness=arrays["brightness"],
            tags={name: arrays[f"tag{i}"] for i, name in enumerate(about["tags"])},
            objects=Objects(**columns, attributes=attributes) if about["boxes"] else None,
            masks=_unpacked(arrays["masks"], arrays["ends"]) if about["masks"] else None,
        )


def _numbered(kind: str, columns: Mapping[str, Array]) -> dict[str, Array]:
    """By number, not by name: a tag may be called anything, the member of a zip file may not."""
    return {f"{kind}{i}": values for i, values in enumerate(columns.values())}


def _packed(masks: Sequence[bytes]) -> dict[str, Array]:
    return {
        "masks": np.frombuffer(b"".join(masks), np.uint8),
        "ends": np.cumsum([len(mask) for mask in masks], dtype=np.int64),
    }


def _unpacked(content: Array, ends: Array) -> tuple[bytes, ...]:
    return tuple(part.tobytes() for part in np.split(content, ends)[: len(ends)])
