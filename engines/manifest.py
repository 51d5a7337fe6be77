"""What travels with an engine: where it came from, what it reads and writes, and the hash of every file."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, field_validator

from avcompress.contract import Contract
from avcompress.files import sha256_file, write_atomically
from avcompress.recipe import Engine, Preprocess, Task
from avcompress.spec import EngineError, Sense
from engines.bundle_files import check_file, read_bounded

NAME = "manifest.json"
SIGNATURE = "manifest.sig"
SCHEMA = 2
LARGEST_BYTES = 16 << 20
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Dialect = Literal["strong", "weak", "dla-implicit"]
# What every file system takes as it stands: no hidden files, no letters that one might fold into others, no last dot.
_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?")


def system_name() -> str:
    """The operating system and the processor of this machine: Linux aarch64."""
    return f"{platform.system()} {platform.machine()}"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Model):
    """One file beside the manifest."""

    sha256: Sha256
    size_bytes: NonNegativeInt


class Tensor(_Model):
    """One input or output of the network; -1 for a dimension that may vary."""

    name: str
    shape: tuple[int, ...]


class Gpu(_Model):
    """The GPU that an engine was built on."""

    name: str
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    driver: str = Field(description="the CUDA that it offers, and its own version where it says")


class Drive(_Model):
    """A recorded drive that calibration images are from."""

    bag: str = Field(description="the name of its file or folder")
    sha256: Sha256 = Field(description="of the bag's one file, or over the names and hashes of those with messages")
    topic: str = Field(description="the camera's")
    selection: dict[str, Any] = Field(description="how images were selected, by the recipe's keys")
    recorded_ns: tuple[int, ...] = Field(description="of each image, by the recorder's clock")
    stamps_ns: tuple[int, ...] = Field(description="of each image, by the camera's clock")


class Calibration(_Model):
    """Where the ranges of activations came from."""

    images: PositiveInt = Field(description="how many")
    images_sha256: Sha256 = Field(description="over their names and digests")
    statistics_sha256: Sha256 = Field(description="of the file of statistics, as `avcompress calibrate` writes it")
    ranges: str = Field(description="how a range follows from the statistics, as the recipe says it")
    drives: tuple[Drive, ...] = Field((), description="that images are from; of the others nothing is said")


class Band(_Model):
    """Where a figure was on most images: its 1st and 99th percentile."""

    low: float
    high: float


class Familiar(_Model):
    """What calibration images, and the network's outputs on them, looked like: what a vehicle's are compared with."""

    images: PositiveInt = Field(description="how many the bands are of")
    figures: dict[str, Band] = Field(description="by name, as calibration.figures takes them of an image")


class CheckLine(_Model):
    """One line of the contract held against one measurement; null was not measured."""

    name: str
    measured: float | None
    sense: Sense
    limit: float
    unit: str
    passed: bool


class Measured(_Model):
    """What the run that made the engine measured; null where a figure could not be."""

    passed: bool = Field(description="the verdict: every line of the contract is kept")
    contract: tuple[CheckLine, ...]
    reference: dict[str, float | None] = Field(description="metric -> value of the float network")
    metrics: dict[str, dict[str, float | None]] = Field(description="backend -> metric -> value")
    latency: dict[str, dict[str, float | None]] = Field(description="backend -> mean_ms, p50_ms ... at batch 1")
    machine: dict[str, str] = Field(description="what the latency is of")


class Manifest(_Model):
    """All that is needed to serve an engine, and to know where it came from."""

    schema_version: Literal[2] = 2
    name: str = Field(pattern=r"^[\w.-]+$", description="of the recipe")
    revision: NonNegativeInt = Field(0, description="a vehicle may refuse lower ones than it has had")
    files: dict[str, FileEntry] = Field(default_factory=dict, description="by name, relative to the manifest's folder")
    engine: Engine = Field(description="the backend, and the settings that it was built with")
    target: Annotated[str, Field(pattern=r"^[\w-]+@[\w.-]+$")] | None = Field(
        None, description="the machine and platform that the engine is for; null where `engine` says all"
    )
    dialect: Dialect | None = Field(None, description="of the network that TensorRT was given; null for CPUs")
    flags: tuple[str, ...] = Field((), description="of the builder")
    versions: dict[str, str] = Field(description="of avcompress, onnx and the runtime")
    platform: str = Field(default_factory=platform.platform, description="where it was built")
    system: str = Field(
        default_factory=system_name,
        description="operating system and processor: TensorRT's engines run on no other",
    )
    gpu: Gpu | None = Field(None, description="null where none was needed")
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preprocess: Preprocess
    task: Task = Field(description="how outputs are decoded: thresholds, NMS")
    classes: tuple[str, ...]
    contract: Contract
    calibration: Calibration | None = Field(None, description="null where nothing was calibrated")
    familiar: Familiar | None = Field(None, description="null where nobody looked at calibration images")
    measured: Measured | None = Field(None, description="null before the run ended, and after a rebuild")
    onnx_sha256: Sha256 = Field(description="of the network that it was built from")
    recipe_sha256: Sha256
    updated_from: Sha256 | None = Field(None, description="of the network that this one is an update of")
    rebuilt_from: Sha256 | None = Field(None, description="of the manifest that the engine was rebuilt from")

    @property
    def backend(self) -> str:
        """The engine's backend."""
        return self.engine.backend

    @field_validator("files")
    @classmethod
    def _stay_in_the_folder(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        refuse_names(files)
        return files


def refuse_names(names: Iterable[str]) -> None:
    """Raise ValueError unless every name is that of a file beside the manifest, on any file system."""
    seen: dict[str, str] = {name: name for name in (NAME, SIGNATURE)}
    for name in names:
        if PurePosixPath(name).is_absolute() or not all(_PART.fullmatch(part) for part in name.split("/")):
            raise ValueError(
                f"expected names of files beside the manifest, of letters, digits, '.', '_', '+' and '-', got {name!r}"
            )
        other = seen.setdefault(name.casefold(), name)
        if other != name or name in {NAME, SIGNATURE}:
            raise ValueError(f"expected names that differ in more than their case, got {name!r} beside {other!r}")


def network_tensors(onnx: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and the outputs of an ONNX file, for a manifest."""
    # Not at the top: a vehicle that loads an engine needs no ONNX.
    import onnx as onnx_package

    from engines.network import network_inputs, network_outputs

    model = onnx_package.load(onnx, load_external_data=False)
    inputs, outputs = network_inputs(model), network_outputs(model)
    return (
        tuple(Tensor(name=name, shape=shape) for name, shape in inputs.items()),
        tuple(Tensor(name=name, shape=shape) for name, shape in outputs.items()),
    )


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write manifest.json for every file that `folder` holds, and return it with the files filled in.

    Hidden files are left out: they are what a file manager or a killed run left behind. Raises EngineError for a name
    that not every file system takes.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_left_out(path.relative_to(folder)))
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_file(path), size_bytes=path.stat().st_size)
        for path in paths
    }
    try:
        refuse_names(files)
    except ValueError as error:
        raise EngineError(f"{folder}: {error}; rename or remove it") from error
    complete = manifest.model_copy(update={"files": files})
    write_atomically(folder / NAME, manifest_bytes(complete))
    return complete


def _is_left_out(path: Path) -> bool:
    return str(path) in {NAME, SIGNATURE} or any(part.startswith(".") for part in path.parts)


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of manifest.json: equal manifests, equal bytes."""
    return f"{manifest.model_dump_json(indent=1)}\n".encode()


def read_manifest(folder: Path, verify: bool = True) -> Manifest:
    """Read manifest.json, and hold every file that it names against its size and hash.

    Raises EngineError naming the file that is missing, truncated or altered, or what is wrong in the manifest.
    """
    path = folder / NAME
    manifest = parse_manifest(read_bounded(path, LARGEST_BYTES, "a manifest"), path)
    if verify:
        for name, entry in manifest.files.items():
            check_file(folder / name, entry.size_bytes, entry.sha256)
    return manifest


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """The manifest that manifest.json holds; `path` is named in errors.

    Raises EngineError for another schema, anything that a manifest does not have, and a key that is there twice.
    """
    try:
        manifest = Manifest.model_validate_json(data)
        # Validated, so that the depth is bounded; of a key that is there twice, readers differ in which one they take.
        json.loads(data, object_pairs_hook=_once)
    except ValidationError as error:
        raise EngineError(f"{path}: {_explain(error)}") from error
    except ValueError as error:
        raise EngineError(f"{path}: expected every key once, got {error} twice; build the engine again") from error
    return manifest


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(repr(next(key for key in keys if keys.count(key) > 1)))
    return found


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    given = first["input"]
    if first["loc"] == ("schema_version",) and isinstance(given, int) and 0 <= given < 1000:
        return (
            f"expected a manifest of schema {SCHEMA}, got schema {given}, of another version of avcompress; "
            "build the engine again (avcompress run --resume keeps the rest)"
        )
    # A key that a stranger chose may hold what a terminal obeys.
    where = "".join(letter for letter in ".".join(map(str, first["loc"])) if letter.isprintable())[:100] or "the file"
    return f"expected a manifest of schema {SCHEMA}, got {where}: {first['msg']}; build the engine again"
