"""The `train` stages of a recipe: steps of a run that, killed, go on from their last checkpoint."""

from __future__ import annotations

import contextlib
import inspect
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avcompress import ranks
from avcompress.bench import Bench
from avcompress.checkpoint import load_decisions, save_decisions
from avcompress.early_stop import judge
from avcompress.files import sha256_file, write_atomically
from avcompress.recipe import Detection
from avcompress.recipe_training import Train, Training
from avcompress.spec import Artifact, DataError, ModelError, Track
from avcompress.state import step_key

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from avcompress.train import Around, TaskLoss
    from avcompress.train.recovery import LossOf
    from calibration.sample import Sample

WEIGHTS = "weights.safetensors"
SKIPPED = "skipped.json"
LOGS = "logs"
Export = Callable[["nn.Module"], "onnx.ModelProto"]
"""What makes the network of a module."""


def train_stages(bench: Bench, artifact: Artifact, key: str, export: Export) -> tuple[Artifact, str]:
    """Take the steps of the recipe's `train` stages in their order; the artifact's model is a module.

    Returns the artifact with the trained module, and the key of its last step.
    """
    for index, stage in enumerate(bench.recipe.stages):
        if isinstance(stage, Train):
            loss = task_loss(bench, index, stage)
            made = [] if loss is None else _loss_code(bench, index, stage)
            preprocess = bench.recipe.preprocess.model_dump()
            key = step_key("train", key, stage.model_dump(), preprocess, _trained_on(bench), made)
            artifact = _train(bench, index, stage, artifact, (key, loss, export))
    return artifact, key


def _trained_on(bench: Bench) -> str:
    return bench.train.fingerprint if bench.train else ""


def train_folders(bench: Bench) -> list[Path]:
    """The folders of the recipe's `train` steps."""
    return [
        bench.state.folder / f"{i}-train" for i, stage in enumerate(bench.recipe.stages) if isinstance(stage, Train)
    ]


def _train(
    bench: Bench, index: int, stage: Train, artifact: Artifact, how: tuple[str, TaskLoss | None, Export]
) -> Artifact:
    from avcompress.export import load_state_, state_to_safetensors
    from avcompress.train import train

    key, loss, export = how
    name = f"{index}-train"

    def compute(folder: Path, track: Track) -> None:
        samples = bench.train
        if samples is None:
            raise AssertionError("prepare() refuses a train stage without data.train")
        with around(bench, name, stage, key, export, track) as surroundings:
            trained = train(artifact, stage, samples, bench.recipe.preprocess, surroundings, loss)
        write_atomically(folder / WEIGHTS, state_to_safetensors(trained.model))
        save_decisions(trained, folder)
        write_atomically(folder / SKIPPED, json.dumps(samples.skipped))

    folder = bench.step(name, f"train, {_length(stage)}", key, compute, together=True)
    if ranks.leads():
        shutil.rmtree(under_way(bench, name), ignore_errors=True)
    load_state_(artifact.model, (folder / WEIGHTS).read_bytes())
    artifact.model.eval()
    return load_decisions(folder, artifact.model)


def _length(stage: Training) -> str:
    return f"{stage.steps} steps" if stage.steps is not None else f"{stage.epochs:g} epochs"


def under_way(bench: Bench, name: str) -> Path:
    """Where the checkpoints of a step lie that is not finished."""
    return bench.state.folder / f"{name}-under-way"


@contextlib.contextmanager
def around(bench: Bench, name: str, stage: Training, key: str, export: Export, track: Track) -> Iterator[Around]:
    """What surrounds the loop of a step that trains: checkpoints, the contract's metric, a log.

    Args:
        bench: of the run.
        name: of the step.
        stage: its settings.
        key: of the step; a checkpoint of another one is refused.
        export: makes the network whose metric counts.
        track: watches the steps.
    """
    from avcompress.train import Around, Store
    from avcompress.train.logs import opened_log

    belongs = {"data": _trained_on(bench), "recipe, code or version of avcompress": key}
    measure = judge(bench, export) if stage.validate_every is not None else None
    with contextlib.ExitStack() as stack:
        write = None
        if stage.log is not None and ranks.leads():
            write = stack.enter_context(opened_log(stage.log, bench.job.out / LOGS, name))
        yield Around(track=track, judge=measure, store=Store(under_way(bench, name), belongs), log=write)


# --- the loss that a recipe names


def task_loss(bench: Bench, index: int, stage: Train) -> TaskLoss | None:
    """The loss of a stage; None for the module's own. Raises RecipeError for a function that is not there."""
    from avcompress.train import TaskLoss
    from avcompress.train.recovery import in_float32

    of = _loss_of(bench, index, stage)
    return None if of is None else TaskLoss(in_float32(of), labels=":" not in (stage.loss or ""))


def _loss_of(bench: Bench, index: int, stage: Train) -> LossOf | None:
    from avcompress.train.pixels import cross_entropy
    from avcompress.train.yolox import yolox_loss

    task, output = bench.recipe.task, bench.recipe.model.output
    match stage.loss:
        case None:
            return None
        case "yolox" if isinstance(task, Detection):
            return lambda outputs, samples: yolox_loss(chosen(outputs, output), samples, task)
        case "ltrb":
            return lambda outputs, samples: _ltrb(chosen(outputs, output), samples)
        case "cross_entropy":
            weights = stage.loss_args.get("class_weights")
            return lambda outputs, samples: cross_entropy(chosen(outputs, output), samples, weights)
        case named:
            function = _own(bench, index, named)

            def of(outputs: Any, samples: Sequence[Sample]) -> Tensor:
                found: Tensor = function(chosen(outputs, output), samples, **stage.loss_args)
                return found

            return of


def _ltrb(outputs: Tensor, samples: Sequence[Sample]) -> Tensor:
    from avcompress.models.detection import box_targets, ltrb_loss
    from avcompress.train.recovery import moved

    bare = next((sample.name for sample in samples if sample.boxes is None), None)
    if bare is not None:
        raise DataError(f"{bare}: expected boxes for loss ltrb, got none; check data.train")
    return ltrb_loss(outputs, moved(box_targets(samples), outputs.device))


def chosen(outputs: Any, name: str | None) -> Any:
    """The output that the recipe names, as the export would name it; all of them where it names none."""
    if name is None or not isinstance(outputs, dict | list | tuple):
        return outputs
    key: Any = name if isinstance(outputs, dict) else int(name.rpartition("_")[2]) if name[-1:].isdecimal() else -1
    if key not in outputs and not (isinstance(key, int) and 0 <= key < len(outputs)):
        raise ModelError(
            f"model.output: expected {name!r} among what the module returns in training, got {type(outputs).__name__} "
            "without it; return the same in training and in eval mode"
        )
    return outputs[key]


def _own(bench: Bench, index: int, named: str) -> Callable[..., Any]:
    from avcompress.models.loading import load_function

    return load_function(named, _loss_folder(bench, index), bench.job.recipe_path.parent, f"stages[{index}].loss")


def _loss_folder(bench: Bench, index: int) -> Path | None:
    return bench.inputs.get(f"stages[{index}].import_from") or bench.inputs.get("model.import_from")


def _loss_code(bench: Bench, index: int, stage: Train) -> list[str]:
    """Hashes of the files that a user's own loss comes from."""
    if stage.loss is None or ":" not in stage.loss:
        return []
    return code([_own(bench, index, stage.loss)], _loss_folder(bench, index))


def module_code(module: nn.Module, folder: Path | None) -> list[str]:
    """Hashes of the source files that training may run: those of the module's parts, and those of the user's folder."""
    return code({type(part) for part in module.modules() if not _is_torch(type(part))}, folder)


def _is_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def code(parts: Iterable[Any], folder: Path | None) -> list[str]:
    """Hashes of the source files of classes and functions, and of all that is loaded from a folder."""
    files = {inspect.getsourcefile(part) for part in parts}
    loaded = (getattr(found, "__file__", None) for found in list(sys.modules.values()))
    if folder is not None:
        files |= {name for name in loaded if name and Path(name).is_relative_to(folder)}
    return [sha256_file(Path(name)) for name in sorted(filter(None, files))]
