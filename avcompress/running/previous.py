"""What an update begins with: a finished run, or an earlier update, that nobody has changed since."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from avcompress.checkpoint import NETWORK, REFERENCE, load_decisions
from avcompress.files import sha256_file
from avcompress.judging.given import RECIPE, Given, identify, stage_number
from avcompress.outdir import UPDATES
from avcompress.recipe import Cast, Ptq, Recipe
from avcompress.recipe_load import load_recipe, load_update
from avcompress.recipe_update import Update
from avcompress.running.targeting import cast_of
from avcompress.search.stages import casting
from avcompress.spec import LayerPlan, RecipeError
from avcompress.state import State
from engines.bundle import Trust
from engines.manifest import Manifest


@dataclass(frozen=True)
class Previous:
    """A compressed network, and all that is known of how it was made.

    Attributes:
        given: its folder and engines.
        recipe: of the run.
        updates: those since, the first one first.
        files: their files, in the same order.
        sha256: of its model.onnx.
        float_step: the folder of the step that holds the run's float network.
        step: of the step that made the network, before a `cast`.
        planned: its layers.
    """

    given: Given
    recipe: Recipe
    updates: tuple[Update, ...]
    files: tuple[Path, ...]
    sha256: str
    float_step: Path
    step: Path
    planned: tuple[LayerPlan, ...]

    @property
    def ptq(self) -> Ptq:
        """The stage that quantized it, in the format that it chose."""
        stage = next(stage for stage in self.recipe.stages if isinstance(stage, Ptq))
        if stage.mixed is None:
            return stage
        if any(layer.precision == "fp8" for layer in self.planned):
            return stage.model_copy(update={"format": "fp8", "activations": "symmetric"})
        return stage.model_copy(update={"format": "int8"})

    @property
    def cast(self) -> Cast | None:
        """The recipe's last stage, where it is one that an update has to repeat, with the layers that it left FP32."""
        stage = cast_of(self.recipe)
        if stage is None or self.ptq.mixed is None:
            return stage
        return casting(stage, tuple(glob.escape(layer.name) for layer in self.planned if layer.precision == "float"))


def find_previous(path: Path) -> Previous:
    """Read an output folder; raises RecipeError for anything else, or for files that were changed since."""
    if not (path / RECIPE).is_file() or not (path / "state").is_dir():
        got = "a file" if path.is_file() else "another folder" if path.is_dir() else "nothing"
        raise RecipeError(
            f"{path}: expected the output folder of `avcompress run` or `avcompress update`, got {got} there; give its "
            "--out"
        )
    given = identify(path, Trust())
    network = path / NETWORK
    if given.manifest is None or not network.is_file():
        raise RecipeError(f"{network}: expected the network of the run, got no file; run the recipe again")
    recipe = load_recipe(path / RECIPE)
    if not any(isinstance(stage, Ptq) for stage in recipe.stages):
        raise RecipeError(
            f"{path / RECIPE}: expected a run with `ptq`, got none; an update needs quantized activations"
        )
    sha256 = _unchanged(path, given.manifest)
    planned = load_decisions(_whole(path, _step_name(path, sha256, cast=False)), None).layers
    if any(layer.precision == "int8 weights" for layer in planned):
        raise RecipeError(
            f"{path}: expected quantized activations, got INT8 weights alone, which `ptq` has chosen; leave them "
            "out of mixed.formats, and run the recipe again"
        )
    numbered = (file for file in (path / UPDATES).glob("*.yaml") if file.stem.isdecimal())
    files = tuple(sorted(numbered, key=lambda file: int(file.stem)))
    return Previous(
        given=given,
        recipe=recipe,
        updates=tuple(load_update(file) for file in files),
        files=files,
        sha256=sha256,
        float_step=_whole(path, "network"),
        step=_whole(path, _step_name(path, sha256, cast_of(recipe) is not None)),
        planned=planned,
    )


def _unchanged(path: Path, manifest: Manifest) -> str:
    """The network's hash; RecipeError where it or the recipe is not what the engines were built with."""
    found = {}
    for name, known in ((NETWORK, manifest.onnx_sha256), (RECIPE, manifest.recipe_sha256)):
        found[name] = sha256_file(path / name)
        if found[name] != known:
            raise RecipeError(
                f"{path / name}: expected the file that the engines were built with, sha256 {known[:16]}, got another, "
                f"{found[name][:16]}, that was put there since; restore it, or run the recipe again"
            )
    return found[NETWORK]


def _step_name(path: Path, sha256: str, cast: bool) -> str:
    """The step that made the network, or the one before where that was a `cast`."""
    folders = sorted((found.parent for found in path.glob(f"state/*/{REFERENCE}")), key=_number)
    made = [folder for folder in folders if sha256_file(folder / NETWORK) == sha256]
    before = [folder for folder in folders if made and _number(folder) < _number(made[-1])]
    steps = before if cast else made
    if not steps:
        raise RecipeError(
            f"{path / 'state'}: expected the step that made {NETWORK}, got none that has it; run the recipe again"
        )
    return steps[-1].name


def _number(folder: Path) -> int:
    return stage_number(folder / NETWORK)


def _whole(path: Path, name: str) -> Path:
    if not State(path / "state").is_whole(name):
        raise RecipeError(
            f"{path / 'state' / name}: expected the files that the run wrote there, got others; run the recipe again"
        )
    return path / "state" / name
