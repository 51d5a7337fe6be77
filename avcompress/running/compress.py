"""From a recipe's network through its stages to one quantized ONNX."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from avcompress.checkpoint import (
    DECISIONS,
    NETWORK,
    REFERENCE,
    load_artifact,
    load_decisions,
    save_artifact,
    save_decisions,
)
from avcompress.files import sha256_file, write_atomically
from avcompress.float_network import with_output
from avcompress.quant.apply import NetworkStage, apply, title
from avcompress.quant.stages.ptq import calibrate, calibration_settings, quantize
from avcompress.recipe import Cast, OnnxModel, Ptq, Recipe, TorchModel, Train
from avcompress.running.bench import Bench
from avcompress.running.rehearsing import rehearse
from avcompress.spec import Artifact, Track
from avcompress.state import step_key
from calibration.batches import Batches
from calibration.statistics_file import load_statistics, save_statistics
from engines.onnx_load import load_onnx

if TYPE_CHECKING:
    import onnx
    from torch import nn

WEIGHTS = "weights.safetensors"
SKIPPED = "skipped.json"
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

    `train` stages come first; the network after them is the float reference.
    """
    match bench.recipe.model:
        case OnnxModel(onnx=file):
            folder = _load_file(bench, bench.inputs["model.onnx"], Path(file).name)
        case TorchModel() as settings:
            folder = _load_module(bench, settings)
    folders = [folder]
    for index, stage in enumerate(bench.recipe.stages):
        if not isinstance(stage, Train):
            folders += _run_stage(bench, index, stage, folders[-1])
    network = bench.job.out / NETWORK
    write_atomically(network, (folders[-1] / NETWORK).read_bytes())
    return Compressed(
        reference=folder / NETWORK,
        counterpart=next((path for path in (folders[-1] / REFERENCE,) if path.exists()), folder / NETWORK),
        network=network,
        artifact=load_artifact(folders[-1]),
        before_cast=folders[-2 if any(isinstance(stage, Cast) for stage in bench.recipe.stages) else -1],
        logs=_logs([*_train_folders(bench), *folders]),
        skipped={
            "train": _read_skipped(_train_folders(bench)),
            "calibration": _read_skipped(folders),
        },
    )


def count_stage_steps(recipe: Recipe) -> int:
    """The steps that a recipe's stages take: one each, and one to calibrate where no file of statistics is given."""
    return len(recipe.stages) + sum(isinstance(stage, Ptq) and stage.statistics is None for stage in recipe.stages)


def _train_folders(bench: Bench) -> list[Path]:
    return [
        bench.state.folder / f"{i}-train" for i, stage in enumerate(bench.recipe.stages) if isinstance(stage, Train)
    ]


def _logs(folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """What each step added to the log of the network that it was given."""
    logs = [(folder.name, load_decisions(folder, None).log) for folder in folders if (folder / DECISIONS).exists()]
    known = 0
    added = {}
    for name, log in logs:
        added[name] = log[known:]
        known = len(log)
    return added


def _read_skipped(folders: list[Path]) -> tuple[str, ...]:
    paths = [folder / SKIPPED for folder in folders]
    return tuple(dict.fromkeys(name for path in paths if path.exists() for name in json.loads(path.read_text())))


def _load_file(bench: Bench, path: Path, name: str) -> Path:
    # Read before the step: its key is what was read, external weights and all, not what one file holds.
    network = with_output(load_onnx(path, bench.recipe.preprocess.size), bench.recipe.model.output)
    rehearse(bench, network, str(path))
    return _keep(bench, Artifact(network, log=(f"read {name}",)))


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
    key = step_key("module", _digest(network), _code(module, bench.inputs.get("model.import_from")))
    for index, stage in enumerate(bench.recipe.stages):
        if isinstance(stage, Train):
            key = step_key("train", key, stage.model_dump(), bench.recipe.preprocess.model_dump(), _trained_on(bench))
            artifact = _train(bench, index, stage, artifact, key)
            network = export(artifact.model)
    return _keep(bench, replace(artifact, model=network))


def _code(module: nn.Module, folder: Path | None) -> list[str]:
    """Hashes of the source files that training may run: those of the module's parts, and those of the user's folder."""
    files = {inspect.getsourcefile(type(part)) for part in module.modules() if not _is_torch(type(part))}
    loaded = (getattr(found, "__file__", None) for found in list(sys.modules.values()))
    if folder is not None:
        files |= {name for name in loaded if name and Path(name).is_relative_to(folder)}
    return [sha256_file(Path(name)) for name in sorted(filter(None, files))]


def _is_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def _trained_on(bench: Bench) -> str:
    return bench.train.fingerprint if bench.train else ""


def _train(bench: Bench, index: int, stage: Train, artifact: Artifact, key: str) -> Artifact:
    from avcompress.export import load_state_, state_to_safetensors
    from avcompress.train import train

    def compute(folder: Path, track: Track) -> None:
        samples = bench.train
        if samples is None:
            raise AssertionError("prepare() refuses a train stage without data.train")
        trained = train(artifact, stage, samples, bench.recipe.preprocess, track)
        write_atomically(folder / WEIGHTS, state_to_safetensors(trained.model))
        save_decisions(trained, folder)
        write_atomically(folder / SKIPPED, json.dumps(samples.skipped))

    folder = bench.step(f"{index}-train", f"train, {stage.steps} steps", key, compute)
    load_state_(artifact.model, (folder / WEIGHTS).read_bytes())
    artifact.model.eval()
    return load_decisions(folder, artifact.model)


def _run_stage(bench: Bench, index: int, stage: NetworkStage, before: Path) -> tuple[Path, ...]:
    """Take the steps of one stage; the last folder holds the network."""
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
    return [sha256_file(folder / name) for name in (NETWORK, REFERENCE, DECISIONS) if (folder / name).exists()]


def _images(bench: Bench) -> tuple[object, str]:
    return bench.recipe.preprocess.model_dump(), bench.calibration.fingerprint
