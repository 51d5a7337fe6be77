"""What a path on the command line stands for: a run, a bundle, an engine's folder, or an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from avcompress.checkpoint import NETWORK, REFERENCE
from avcompress.spec import RecipeError
from engines.built import MODEL
from engines.bundle import Trust, verify_bundle
from engines.manifest import NAME, Manifest, read_manifest

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Given:
    """What is there.

    Attributes:
        kind: what it is.
        path: of the file or folder.
        network: the ONNX file that its engines were built from; None where it does not come with one.
        manifests: of its engines by backend; empty for an ONNX file.
        recipe: of the run; None elsewhere.
        reference: the float network of the run; None elsewhere.
        counterpart: the float network with the tensors of the quantized one; None where there is none.
        sha256: stands for a bundle as a whole; empty elsewhere.
    """

    kind: Literal["run", "bundle", "engine", "network"]
    path: Path
    network: Path | None
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    recipe: Path | None = None
    reference: Path | None = None
    counterpart: Path | None = None
    sha256: str = ""

    @property
    def manifest(self) -> Manifest | None:
        """What its engines agree on: task, preprocessing, classes, contract; None for an ONNX file."""
        return next(iter(self.manifests.values()), None)

    def engine_folder(self, backend: str) -> Path:
        """Where the engine is, of a run or an engine's folder."""
        return self.path / "engines" / backend if self.kind == "run" else self.path


def identify(path: Path, trust: Trust) -> Given:
    """Find out what a path stands for, and hold its files against its manifests.

    Raises RecipeError for anything else, EngineError for a bundle that `trust` does not take, or an altered file.
    """
    if path.is_file():
        if path.suffix.lower() != ".onnx":
            raise RecipeError(f"{path}: {_EXPECTED}, got a file that is not called .onnx; check the path")
        return Given("network", path, path)
    if not path.is_dir():
        raise RecipeError(f"{path}: {_EXPECTED}, got nothing there; check the path")
    if (path / RECIPE).is_file() and (path / "state").is_dir():
        return _run(path)
    if (path / NAME).is_file():
        return _manifested(path, trust)
    raise RecipeError(f"{path}: {_EXPECTED}, got a folder without {RECIPE} or {NAME}; check the path")


_EXPECTED = "expected a run's folder, a bundle, an engine's folder or an ONNX file"


def _run(path: Path) -> Given:
    if not (path / "report.json").is_file():
        raise RecipeError(
            f"{path}: expected a run that has ended, got one without report.json; go on with: avcompress run --resume"
        )
    folders = sorted(found.parent for found in path.glob(f"engines/*/{NAME}"))
    if not folders:
        raise RecipeError(f"{path}: expected a run with an engine, got none; run the recipe again with --resume")
    reference = path / "state" / "network" / NETWORK
    stages = sorted(path.glob(f"state/*/{REFERENCE}"), key=stage_number)
    return Given(
        kind="run",
        path=path,
        network=_there(path / NETWORK),
        manifests={folder.name: read_manifest(folder) for folder in folders},
        recipe=path / RECIPE,
        reference=_there(reference),
        counterpart=stages[-1] if stages else _there(reference),
    )


def stage_number(path: Path) -> int:
    """Of `3-ptq/reference.onnx`: 3; -1 for a folder of no stage's."""
    number = path.parent.name.partition("-")[0]
    return int(number) if number.isdecimal() else -1


def _manifested(path: Path, trust: Trust) -> Given:
    manifest = read_manifest(path, verify=False)
    backend = manifest.backend
    if MODEL[backend] in manifest.files and not any(name.startswith("engine/") for name in manifest.files):
        return Given("engine", path, None, {backend: read_manifest(path)})
    verified = verify_bundle(path, trust)
    return Given("bundle", path, path / NETWORK, {backend: verified.manifest}, sha256=verified.sha256)


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None
