"""Detections of any tool as COCO results: [{image_id, category_id, bbox, score}], bbox as left, top, width, height.

Source: cocodataset.org/#format-results.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, StrictFloat, TypeAdapter, ValidationError

from avcompress.files import write_atomically
from avcompress.spec import DataError
from calibration.coco import CocoIds, Id
from calibration.decode import read_bytes
from calibration.tags import BOM
from validation.predictions import BoxPredictions


class _Result(BaseModel):
    image_id: Id
    category_id: Id
    bbox: tuple[StrictFloat, StrictFloat, StrictFloat, StrictFloat]
    score: StrictFloat


_RESULTS = TypeAdapter(list[_Result])


def read_coco_results(path: Path, ids: CocoIds, names: Sequence[str]) -> BoxPredictions:
    """Read a results JSON for a COCO source's images, in the order of their names.

    Args:
        path: the results; an empty list is legal: no detection.
        ids: of the source's labels. Entries of images that they list but `names` lacks, because `every` or `limit`
            leaves them out, are not read, nor are those of a category that a null alias ignores.
        names: of the images, as `Truth` has them.

    Raises DataError in one line that names the entry, counted from 0.
    """
    results = _load(path)
    _refuse_repeated(results, path)
    order = {name: index for index, name in enumerate(names)}
    rows: list[tuple[int, float, float, float, float, float, int]] = []
    for index, result in enumerate(results):
        where = f"{path}: entry {index}"
        _check(result, ids, where)
        image = order.get(ids.images[result.image_id])
        label = ids.table.index(ids.categories[result.category_id], where)
        if image is not None and label is not None:
            left, top, width, height = result.bbox
            rows.append((image, left, top, left + width, top + height, result.score, label))
    table = np.array(rows, np.float64).reshape(-1, 7)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return BoxPredictions(
        names=tuple(names),
        image=table[:, 0].astype(np.int64),
        xyxy=table[:, 1:5].astype(np.float32),
        scores=table[:, 5].astype(np.float32),
        labels=table[:, 6].astype(np.int64),
    )


def write_coco_results(path: Path, found: BoxPredictions, ids: CocoIds) -> None:
    """Write detections as COCO results, whole or not at all, under the ids of a source's labels.

    Raises DataError where the labels lack an image or a class, OutputError.
    """
    images = {name: key for key, name in ids.images.items()}
    strange = [name for name in found.names if name not in images]
    if strange:
        raise DataError(f"{strange[0]}: expected an image of the COCO labels, got one without an id; give its labels")
    categories = _categories(ids)
    size = (found.xyxy[:, 2:].astype(np.float64) - found.xyxy[:, :2]).tolist()
    columns = (found.image.tolist(), found.labels.tolist(), found.xyxy[:, :2].tolist(), size, found.scores.tolist())
    results = []
    for image, label, corner, sides, score in zip(*columns, strict=True):
        if label not in categories:
            raise DataError(f"class {label}: expected a category of the COCO labels for it, got none; list it there")
        entry = {"image_id": images[found.names[image]], "category_id": categories[label]}
        results.append({**entry, "bbox": [*corner, *sides], "score": score})
    write_atomically(path, json.dumps(results))


def _load(path: Path) -> list[_Result]:
    try:
        return _RESULTS.validate_json(read_bytes(path).removeprefix(BOM))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        entry, *key = map(str, first["loc"]) if first["loc"] else ("",)
        place = f": entry {entry}{''.join(f': {part}' for part in key)}" if entry else ""
        raise DataError(
            f"{path}{place}: expected COCO results, a list of {{image_id, category_id, bbox, score}}, "
            f"got {first['msg']!r}; mend the file"
        ) from error


def _refuse_repeated(results: Sequence[_Result], path: Path) -> None:
    seen: dict[tuple[int | str, int | str, tuple[float, ...], float], int] = {}
    for index, result in enumerate(results):
        first = seen.setdefault((result.image_id, result.category_id, result.bbox, result.score), index)
        if first != index:
            raise DataError(
                f"{path}: entry {index}: expected each detection once, got entry {first} again; remove it, and do not "
                "join a file with itself"
            )


def _check(result: _Result, ids: CocoIds, where: str) -> None:
    if result.image_id not in ids.images:
        raise DataError(
            f"{where}: expected an image of the labels, got image_id {result.image_id!r}; "
            "give the labels that the results were made for"
        )
    if result.category_id not in ids.categories:
        raise DataError(
            f"{where}: expected a category of the labels, got category_id {result.category_id!r}; "
            "use the labels' own ids, not indices into the class table"
        )
    if not all(map(math.isfinite, (*result.bbox, result.score))) or not 0 <= result.score <= 1:
        raise DataError(
            f"{where}: expected finite pixels and a score in 0-1, got bbox {result.bbox}, score {result.score}; mend it"
        )
    if min(result.bbox[2:]) < 0:
        raise DataError(f"{where}: expected left, top, width, height, got bbox {result.bbox}; mend it")


def _categories(ids: CocoIds) -> Mapping[int, int | str]:
    """The category id of each class: that of its own name, else the first that an alias leads from."""
    index, aliases = ids.table.names.index, ids.table.aliases
    aliased = {index(aliases[name]): key for key, name in reversed(tuple(ids.categories.items())) if aliases.get(name)}
    own = {index(name): key for key, name in ids.categories.items() if name in ids.table.names and name not in aliases}
    return {**aliased, **own}
