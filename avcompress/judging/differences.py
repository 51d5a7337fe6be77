"""What two networks differ in without being run: settings, contracts, files, the precision of layers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, JsonValue

from avcompress.frozen import Model
from avcompress.spec import LayerPlan
from engines.manifest import FileEntry, Manifest

LEFT_OUT = frozenset({"files", "measured", "schema_version", "platform"})


class Side(Model):
    """One of the two."""

    path: str = Field(description="as it was given")
    kind: Literal["run", "bundle", "engine", "network"] = Field(description="what it is")
    engine: str = Field(description="the backend that is compared; empty where none is there")
    size_bytes: int = Field(description="of its files; of a run, of the engine that is compared")
    network_sha256: str = Field(description="of the ONNX that it was built from")


class Difference(Model):
    """A setting that is not the same; null where one side has none."""

    key: str = Field(description="as manifests spell it: preprocess.pad, contract.accuracy[0].min")
    a: JsonValue = Field(description="of A")
    b: JsonValue = Field(description="of B")


class FileDifference(Model):
    """A file that is not the same; null where one side has none."""

    name: str = Field(description="within the bundle or the engine's folder")
    a_bytes: int | None = Field(description="size in A")
    b_bytes: int | None = Field(description="size in B")


class LayerDifference(Model):
    """A weighted layer that is planned in another precision; null where one network lacks it."""

    name: str = Field(description="the node's name")
    a: str | None = Field(description="in A")
    b: str | None = Field(description="in B")


def setting_differences(a: Manifest | None, b: Manifest | None) -> tuple[Difference, ...]:
    """Every setting that two manifests do not agree on; none where one of them is missing."""
    if a is None or b is None:
        return ()
    left, right = (dict(_flat(each.model_dump(mode="json", exclude=set(LEFT_OUT)))) for each in (a, b))
    keys = dict.fromkeys((*left, *right))
    return tuple(
        Difference(key=key, a=left.get(key), b=right.get(key)) for key in keys if left.get(key) != right.get(key)
    )


def file_differences(a: Mapping[str, FileEntry], b: Mapping[str, FileEntry]) -> tuple[FileDifference, ...]:
    """The files whose content differs, or that only one side has."""
    return tuple(
        FileDifference(
            name=name,
            a_bytes=a[name].size_bytes if name in a else None,
            b_bytes=b[name].size_bytes if name in b else None,
        )
        for name in sorted({*a, *b})
        if a.get(name) != b.get(name)
    )


def layer_differences(a: Sequence[LayerPlan], b: Sequence[LayerPlan]) -> tuple[LayerDifference, ...]:
    """The layers that are planned in different precisions, in the order of the graphs."""
    left, right = ({layer.name: layer.precision for layer in layers} for layers in (a, b))
    names = dict.fromkeys((*left, *right))
    return tuple(
        LayerDifference(name=name, a=left.get(name), b=right.get(name))
        for name in names
        if left.get(name) != right.get(name)
    )


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf by its path; a list of plain values is a leaf."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{key}[{index}]")
    else:
        yield key, value
