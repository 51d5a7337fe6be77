"""The losses of labels that recipes name, and the user's code behind them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avcompress.files import sha256_file
from avcompress.outputs import chosen
from avcompress.recipe import Detection
from avcompress.recipe_training import LabelLoss
from avcompress.running.bench import Bench
from avcompress.spec import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avcompress.train import TaskLoss
    from avcompress.train.recovery import LossOf
    from calibration.sample import Sample


def task_loss(bench: Bench, where: str, stage: LabelLoss) -> TaskLoss | None:
    """The loss of a stage; None for the module's own. Raises RecipeError for a function that is not there.

    `where` is the stage's place in the recipe: `stages[0]`.
    """
    from avcompress.train import TaskLoss
    from avcompress.train.recovery import in_float32

    of = _loss_of(bench, where, stage)
    return None if of is None else TaskLoss(in_float32(of), labels=":" not in (stage.loss or ""))


def _loss_of(bench: Bench, where: str, stage: LabelLoss) -> LossOf | None:
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
            function = _own(bench, where, named)

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


def _own(bench: Bench, where: str, named: str) -> Callable[..., Any]:
    from avcompress.models.loading import load_function

    return load_function(named, _loss_folder(bench, where), bench.job.recipe_path.parent, f"{where}.loss")


def _loss_folder(bench: Bench, where: str) -> Path | None:
    return bench.inputs.get(f"{where}.import_from") or bench.inputs.get("model.import_from")


def loss_code(bench: Bench, where: str, stage: LabelLoss) -> list[str]:
    """Hashes of the files that a user's own loss comes from; of a module's own, those of the module stand for it."""
    if stage.loss is None or ":" not in stage.loss:
        return []
    return code_of([_own(bench, where, stage.loss)], _loss_folder(bench, where))


def module_code(module: nn.Module, folder: Path | None) -> list[str]:
    """Hashes of the source files that training may run: those of the module's parts, and those of the user's folder."""
    return code_of({type(part) for part in module.modules() if not _is_torch(type(part))}, folder)


def _is_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def code_of(parts: Iterable[Any], folder: Path | None) -> list[str]:
    """Hashes of the source files of classes and functions, and of all that is loaded from a user's folder."""
    files = {inspect.getsourcefile(part) for part in parts}
    loaded = (getattr(found, "__file__", None) for found in list(sys.modules.values()))
    if folder is not None:
        files |= {name for name in loaded if name and Path(name).is_relative_to(folder)}
    return [sha256_file(Path(name)) for name in sorted(filter(None, files))]
