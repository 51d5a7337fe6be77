"""A stored baseline: what a network said and how long it took, to hold later networks against on the same data.

A folder of `baseline.json` and one file of predictions for each role; hashes tell when any of it was changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, JsonValue, ValidationError

from avcompress.files import atomic_folder, sha256_file, write_atomically
from avcompress.frozen import Model
from avcompress.spec import DataError, RecipeError
from validation.predictions import Predictions
from validation.predictions_file import load_predictions, to_bytes
from validation.report import Measured
from validation.truth import Truth

VERSION = 1
FILE = "baseline.json"


class DataSet(Model):
    """Which images and labels something was measured on."""

    name: str = Field(description="what people call it: the recipe's folder of images")
    images: int = Field(description="how many")
    fingerprint: str = Field(description="the sha256 of images, labels and tags")
    classes: tuple[str, ...] = Field(description="the class table")
    task: Literal["detection", "segmentation"] = Field(description="what the labels are for")

    def __str__(self) -> str:
        return f"{self.name} ({self.images} images, sha256 {self.fingerprint[:12]})"


class BaselineFacts(Model):
    """What a baseline holds beside its predictions; null is what could not be measured."""

    schema_version: Literal[1] = Field(1, description="version of this layout")
    created: datetime = Field(description="when it was measured")
    recipe: str = Field(description="the recipe's name")
    data: DataSet = Field(description="what it was measured on")
    network_sha256: str = Field(description="of the network's ONNX file")
    versions: dict[str, str] = Field(description="of avcompress, engines and libraries")
    figures: dict[str, dict[str, Measured]] = Field(description="role -> metric -> value")
    latency_ms: dict[str, dict[str, tuple[float, ...]]] = Field(
        description="engine -> scenario -> every sample, from the image to the prediction"
    )
    settings: dict[str, JsonValue] = Field(
        default_factory=dict, description="what else decided the predictions: pre- and post-processing"
    )


class _Stored(BaselineFacts):
    """`predictions`: role -> sha256 of its file; `sha256`: of all other keys, as _digest takes it."""

    predictions: dict[str, str]
    sha256: str


@dataclass(frozen=True, eq=False)
class Baseline:
    """What one network gave on one data set: facts, and predictions by role (float network, openvino, fog:3)."""

    facts: BaselineFacts
    predictions: Mapping[str, Predictions]


def data_set(truth: Truth, name: str) -> DataSet:
    """The data set that labels were read from."""
    return DataSet(
        name=name,
        images=len(truth.names),
        fingerprint=truth.fingerprint,
        classes=truth.classes,
        task="segmentation" if truth.objects is None else "detection",
    )


def write_baseline(folder: Path, baseline: Baseline) -> None:
    """Store a baseline in a folder, whole or not at all, in place of an earlier one.

    Raises RecipeError when the folder holds something else, OutputError.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).is_file():
        raise RecipeError(f"{folder}: expected a new folder or an earlier baseline, got another; give another path")
    about = {"fingerprint": baseline.facts.data.fingerprint, "network_sha256": baseline.facts.network_sha256}
    files = {role: to_bytes(found, {"role": role, **about}) for role, found in baseline.predictions.items()}
    content = json.loads(baseline.facts.model_dump_json())
    content["predictions"] = {role: hashlib.sha256(data).hexdigest() for role, data in files.items()}
    content["sha256"] = _digest(content)
    with atomic_folder(folder) as place:
        write_atomically(place / FILE, json.dumps(content, indent=1))
        for role, data in files.items():
            write_atomically(place / _file(role), data)


def read_baseline(folder: Path, at_hand: DataSet | None = None) -> Baseline:
    """Read a stored baseline, and hold it against the data at hand where they are given.

    Raises DataError, in one line, for what is no baseline, was changed since it was stored, is of another version, or
    was measured for another task, on other classes or on another data set.
    """
    stored = _read(folder)
    if at_hand is not None:
        _require_same(folder, stored.data, at_hand)
    predictions = {role: _predictions(folder, role, digest) for role, digest in stored.predictions.items()}
    facts = BaselineFacts.model_validate(stored.model_dump(exclude={"predictions", "sha256"}))
    return Baseline(facts, predictions)


def _require_same(folder: Path, stored: DataSet, at_hand: DataSet) -> None:
    advice = "validate on the baseline's images, labels and tags, or store a new baseline"
    if stored.task != at_hand.task:
        raise DataError(f"{folder}: expected a baseline of {at_hand.task}, got one of {stored.task}; give another")
    if stored.classes != at_hand.classes:
        wanted, got = ", ".join(at_hand.classes), ", ".join(stored.classes)
        raise DataError(f"{folder}: expected a baseline of the classes {wanted}, got one of {got}; {advice}")
    if stored.fingerprint != at_hand.fingerprint:
        raise DataError(
            f"{folder}: expected a baseline of the data at hand, {at_hand}, got one of other data, {stored}; {advice}"
        )


def _read(folder: Path) -> _Stored:
    path = folder / FILE
    content = _json(path)
    version = content.get("schema_version")
    if version != VERSION:
        raise DataError(
            f"{path}: expected a baseline of version {VERSION}, got {version!r}; use the avcompress it is of"
        )
    if _digest(content) != content.get("sha256"):
        raise DataError(
            f"{path}: expected what was stored, got a file that was changed since; store the baseline again"
        )
    try:
        return _Stored.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place}: expected a baseline, got {first['msg']!r}; store it again") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: expected a stored baseline, got {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected the JSON of a baseline, got {error}; store it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the JSON of a baseline, got a {type(content).__name__}; check the path")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    """The sha256, in hex, over all keys but `sha256`, in one order and spacing."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _predictions(folder: Path, role: str, digest: str) -> Predictions:
    path = folder / _file(role)
    try:
        same = sha256_file(path) == digest
    except OSError as error:
        raise DataError(f"{path}: expected the baseline's predictions, got {error.strerror}; store it again") from error
    if not same:
        raise DataError(
            f"{path}: expected what was stored, got a file that was changed since; store the baseline again"
        )
    return load_predictions(path)[0]


def _file(role: str) -> str:
    """A name for any role, without a separator: fog:3 -> predictions-fog%3A3.npz."""
    return f"predictions-{quote(role, safe=' ')}.npz"
