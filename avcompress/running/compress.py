"""From a recipe's network through its stages to one quantized ONNX."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from avcompress import ranks
from avcompress.checkpoint import (
    DECISIONS,
    NETWORK,
    REFERENCE,
    TRAINED,
    load_artifact,
    load_decisions,
    save_artifact,
)
from avcompress.files import sha256_file, write_atomically
from avcompress.float_network import with_output
from avcompress.quant.apply import NetworkStage, apply, title
from avcompress.quant.stages.ptq import calibrate, calibration_settings, quantize
from avcompress.recipe import Cast, FloatTraining, GeneratedSource, Ptq, Recipe
from avcompress.recipe_network import OnnxModel, TorchModel
from avcompress.recipe_qat import Qat
from avcompress.running.bench import Bench
from avcompress.running.generating import generate_images
from avcompress.running.rehearsing import rehearse
from avcompress.running.task_loss import module_code
from avcompress.running.teaching import images_of, teacher_code
from avcompress.running.training import SKIPPED, Export, train_folders, train_stages
from avcompress.running.tuning import qat_step
from avcompress.spec import Artifact, Track
from avcompress.state import step_key
from calibration.batches import Batches
from calibration.statistics_file import load_statistics, save_statistics
from engines.onnx_load import load_onnx

if TYPE_CHECKING:
    import onnx
    from torch import fx, nn

STATISTICS = "calibration.stats"


class Compressed(NamedTuple):
    """What the stages made.

    Attributes:
        reference: the float ONNX that accuracy drops are measured against.
        counterpart: the float ONNX that has the quantized one's tensors: after what prepared it for quantization.
        network: the quantized ONNX.
        artifact: the quantized network and what was decided about it.
        before_cast: the step's folder that holds the network as it was before a `cast`, or else the last one's.
        logs: what each step said, by the step's name.
        skipped: by role, train and calibration, the images left out because they cannot be read.
    """

    reference: Path
    counterpart: Path
    network: Path
    artifact: Artifact
    before_cast: Path
    logs: Mapping[str, tuple[str, ...]]
    skipped: Mapping[str, tuple[str, ...]]


def compress(bench: Bench) -> Compressed:
    """Load the network and run the recipe's stages; each one is a step that resumes.

    `train` and `distill` stages come first; the network after them is the float reference.
    """
    match bench.recipe.model:
        case OnnxModel(onnx=file):
            folder = _load_file(bench, bench.inputs["model.onnx"], Path(file).name)
        case TorchModel() as settings:
            folder = _load_module(bench, settings)
    folders = [folder]
    for index, stage in enumerate(bench.recipe.stages):
        if not isinstance(stage, FloatTraining):
            folders += _run_stage(bench, index, stage, folders[-1])
    network = bench.job.out / NETWORK
    if ranks.leads():
        write_atomically(network, (folders[-1] / NETWORK).read_bytes())
    return Compressed(
        reference=folder / NETWORK,
        counterpart=next((path for path in (folders[-1] / REFERENCE,) if path.exists()), folder / NETWORK),
        network=network,
        artifact=load_artifact(folders[-1]),
        before_cast=folders[-2 if any(isinstance(stage, Cast) for stage in bench.recipe.stages) else -1],
        logs=_logs([*train_folders(bench), *folders]),
        skipped=_skipped(bench, folders),
    )


def count_stage_steps(recipe: Recipe) -> int:
    """The steps that a recipe's stages and its generated images take.

    One each, and one to calibrate where no file of statistics is given.
    """
    made = sum(isinstance(part, GeneratedSource) for part in (recipe.data.train, recipe.data.calibration))
    calibrated = sum(isinstance(stage, Ptq) and stage.statistics is None for stage in recipe.stages)
    return len(recipe.stages) + calibrated + made


def _logs(folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """What each step added to the log of the network that it was given."""
    logs = [(folder.name, load_decisions(folder, None).log) for folder in folders if (folder / DECISIONS).exists()]
    known = 0
    added = {}
    for name, log in logs:
        added[name] = log[known:]
        known = len(log)
    return added


def _skipped(bench: Bench, folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """By role, the images left out in the steps' folders."""
    learned = [*train_folders(bench), *(folder for folder in folders if folder.name.endswith("-qat"))]
    others = [folder for folder in folders if folder not in learned]
    if bench.train is None:
        return {"train": (), "calibration": _read_skipped([*learned, *others])}
    return {"train": _read_skipped(learned), "calibration": _read_skipped(others)}


def _read_skipped(folders: list[Path]) -> tuple[str, ...]:
    paths = [folder / SKIPPED for folder in folders]
    return tuple(dict.fromkeys(name for path in paths if path.exists() for name in json.loads(path.read_text())))


def _load_file(bench: Bench, path: Path, name: str) -> Path:
    # Read before the step: its key is what was read, external weights and all, not what one file holds.
    network = with_output(load_onnx(path, bench.recipe.preprocess.size), bench.recipe.model.output)
    rehearse(bench, network, str(path))
    generate_images(bench, network, step_key("imported", _digest(network)))
    artifact = Artifact(network, log=(f"read {name}",))
    if train_folders(bench):
        artifact = _train_file(bench, network, artifact)
    return _keep(bench, artifact)


def _train_file(bench: Bench, network: onnx.ModelProto, artifact: Artifact) -> Artifact:
    from avcompress.onnx_import import import_onnx, write_back

    def export(module: nn.Module) -> onnx.ModelProto:
        return write_back(cast("fx.GraphModule", module), network)

    imported = replace(artifact, model=import_onnx(network))
    return _trained(bench, imported, step_key("imported", _digest(network)), export, network)


def _keep(bench: Bench, artifact: Artifact) -> Path:
    """Take the step that holds the float network, which is read or exported by then."""

    def save(folder: Path, track: Track) -> None:  # noqa: ARG001
        save_artifact(artifact, folder)

    return bench.step("network", "keep the float network", step_key("network", _digest(artifact.model)), save)


def _digest(network: onnx.ModelProto) -> str:
    return hashlib.sha256(network.SerializeToString(deterministic=True)).hexdigest()


def _load_module(bench: Bench, settings: TorchModel) -> Path:
    from avcompress.export import to_onnx
    from avcompress.models.loading import load_torch

    def export(module: nn.Module) -> onnx.ModelProto:
        return with_output(to_onnx(module, bench.recipe.preprocess.size), settings.output)

    module = load_torch(settings, bench.job.data_root, bench.job.recipe_path.parent)
    network = export(module)  # its bytes are the key: they hold all that the user's code does
    rehearse(bench, network, settings.factory)
    artifact = Artifact(module, log=(f"built {settings.factory}",))
    key = step_key("module", _digest(network), module_code(module, bench.inputs.get("model.import_from")))
    generate_images(bench, module, key)
    return _keep(bench, _trained(bench, artifact, key, export, network))


def _trained(bench: Bench, artifact: Artifact, key: str, export: Export, network: onnx.ModelProto) -> Artifact:
    """The artifact of the network after the recipe's stages that train it; without one, of the network as it is."""
    if not train_folders(bench):
        return replace(artifact, model=network)
    trained, _ = train_stages(bench, artifact, key, export)
    return replace(trained, model=export(trained.model))


def _run_stage(bench: Bench, index: int, stage: NetworkStage | Qat, before: Path) -> tuple[Path, ...]:
    """Take the steps of one stage; the last folder holds the network."""
    if isinstance(stage, Qat):
        made = teacher_code(bench, index, stage.teacher)
        known = (bench.recipe.preprocess.model_dump(), images_of(bench).fingerprint, made)
        key = step_key("qat", _files(before), stage.model_dump(), *known)
        return (qat_step(bench, index, stage, before, key, made),)
    if isinstance(stage, Ptq):
        return _ptq(bench, index, stage, before)
    return (_step(bench, f"{index}-{stage.kind}", stage, before, None),)


def _ptq(bench: Bench, index: int, stage: Ptq, before: Path) -> tuple[Path, ...]:
    """Calibrate in a step of its own, unless the recipe has a file of statistics: other ranges need no image again."""
    if stage.statistics is not None:
        file = bench.inputs[f"stages[{index}].statistics"]
        return (_step(bench, f"{index}-ptq", stage, before, file),)

    def compute(folder: Path, track: Track) -> None:
        artifact = load_artifact(before)
        save_statistics(calibrate(artifact, stage, _batches(bench, artifact, track)), folder / STATISTICS)
        write_atomically(folder / SKIPPED, json.dumps(bench.calibration.skipped))

    key = step_key("calibrate", _files(before), calibration_settings(stage), *_images(bench))
    folder = bench.step(f"{index}-calibrate", f"calibrate ({len(bench.calibration)} images)", key, compute)
    return folder, _step(bench, f"{index}-ptq", stage, before, folder / STATISTICS)


def _step(bench: Bench, name: str, stage: NetworkStage, before: Path, statistics: Path | None) -> Path:
    def compute(folder: Path, track: Track) -> None:
        artifact = load_artifact(before)
        if isinstance(stage, Ptq) and statistics is not None:
            done = quantize(artifact, stage, _batches(bench, artifact, track), load_statistics(statistics))
        else:
            done = apply(stage, artifact, _batches(bench, artifact, track))
        save_artifact(done, folder)
        write_atomically(folder / SKIPPED, json.dumps(bench.calibration.skipped))

    known = sha256_file(statistics) if statistics is not None else ""
    key = step_key(stage.kind, _files(before), stage.model_dump(), known, *_images(bench))
    return bench.step(name, title(stage, len(bench.calibration)), key, compute)


def _batches(bench: Bench, artifact: Artifact, track: Track) -> Batches:
    return Batches(bench.calibration, bench.recipe.preprocess, artifact.model.graph.input[0].name, track)


def _files(folder: Path) -> list[str]:
    """What a step reads of the one before."""
    return [sha256_file(folder / name) for name in (NETWORK, REFERENCE, TRAINED, DECISIONS) if (folder / name).exists()]


def _images(bench: Bench) -> tuple[object, str]:
    return bench.recipe.preprocess.model_dump(), bench.calibration.fingerprint
