"""What travels with an engine: where it came from, what it reads and writes, and the hash of every file."""

from __future__ import annotations

import platform
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import onnx as onnx_package
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator

from avcompress.files import sha256_file, write_atomically
from avcompress.recipe import Contract, Preprocess, Task
from avcompress.spec import EngineError
from engines.network import network_inputs, network_outputs

NAME = "manifest.json"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Model):
    """One file beside the manifest."""

    sha256: Sha256
    size_bytes: NonNegativeInt


class Tensor(_Model):
    """One input or output of the network; -1 for a dimension that may vary."""

    name: str
    shape: tuple[int, ...]


class Manifest(_Model):
    """All that is needed to serve an engine, and to know where it came from."""

    schema_version: Literal[1] = 1
    files: dict[str, FileEntry] = Field(default_factory=dict, description="by name, relative to the manifest's folder")
    backend: Literal["ort", "openvino", "trt_rtx", "trt"]
    versions: dict[str, str] = Field(description="of avcompress, onnx and the runtime")
    platform: str = Field(default_factory=platform.platform, description="where it was built")
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preprocess: Preprocess
    task: Task
    classes: tuple[str, ...]
    contract: Contract
    onnx_sha256: Sha256 = Field(description="of the network that it was built from")
    recipe_sha256: Sha256

    @field_validator("files")
    @classmethod
    def _stay_in_the_folder(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
                raise ValueError(f"expected names of files beside the manifest, got {name!r}")
        return files


def network_tensors(onnx: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and the outputs of an ONNX file, for a manifest."""
    model = onnx_package.load(onnx, load_external_data=False)
    inputs, outputs = network_inputs(model), network_outputs(model)
    return (
        tuple(Tensor(name=name, shape=shape) for name, shape in inputs.items()),
        tuple(Tensor(name=name, shape=shape) for name, shape in outputs.items()),
    )


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write manifest.json for every file that `folder` holds, and return it with the files filled in."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_file(path), size_bytes=path.stat().st_size)
        for path in paths
    }
    complete = manifest.model_copy(update={"files": files})
    write_atomically(folder / NAME, complete.model_dump_json(indent=1) + "\n")
    return complete


def read_manifest(folder: Path, verify: bool = True) -> Manifest:
    """Read manifest.json, and hold every file that it names against its size and hash.

    Raises EngineError naming the file that is missing, truncated or altered, or what is wrong in the manifest.
    """
    path = folder / NAME
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EngineError(f"{path}: expected a manifest, got {error.strerror}; give the folder of an engine") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise EngineError(
            f"{path}: expected a manifest of schema 1, got {where}: {first['msg']}; build the engine again"
        ) from error
    if verify:
        for name, entry in manifest.files.items():
            _verify(folder / name, entry)
    return manifest


def _verify(path: Path, entry: FileEntry) -> None:
    try:
        size = path.stat().st_size
        # The size first: it needs no reading, and tells a truncated copy from an altered one.
        digest = sha256_file(path) if size == entry.size_bytes else ""
    except OSError as error:
        raise EngineError(
            f"{path}: expected the file that the manifest names, got {error.strerror}; copy or build the engine again"
        ) from error
    if size != entry.size_bytes:
        raise EngineError(f"{path}: expected {entry.size_bytes} bytes, got {size}; copy or build the engine again")
    if digest != entry.sha256:
        raise EngineError(
            f"{path}: expected sha256 {entry.sha256[:12]}…, got {digest[:12]}…: the file was altered; "
            "copy or build the engine again"
        )
