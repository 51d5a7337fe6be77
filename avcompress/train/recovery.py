"""Training on labelled samples: what a module brings, or a loss of the recipe, becomes the loss of the loop's steps.

A module that can be trained without a loss of the recipe brings two methods besides `forward`:

    targets(samples) -> anything    from a batch of calibration.sample.Sample, moved into pixels of the network's input
    loss(outputs, targets) -> ()    from what forward returned and what targets returned
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from avcompress import ranks
from avcompress.recipe import Preprocess
from avcompress.recipe_training import Training
from avcompress.spec import Artifact, AvcompressError, ModelError, RecipeError
from avcompress.train.data import feed, load
from avcompress.train.loop import Around, Turn, run_steps
from calibration.sample import Sample, Source


class Trainable(Protocol):
    """What a module has to offer besides `forward`."""

    def targets(self, samples: Sequence[Sample]) -> Any:
        """Turn the labels of a batch into what `loss` wants."""
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """A scalar to make small."""
        ...


LossOf = Callable[[Any, Sequence[Sample]], Tensor]
"""A scalar to make small, from what forward returned and the samples of its batch."""


@dataclass(frozen=True)
class TaskLoss:
    """A loss, and whether the samples need labels for it."""

    of: LossOf
    labels: bool = True


def train(
    artifact: Artifact,
    settings: Training,
    samples: Source,
    preprocessing: Preprocess,
    around: Around | None = None,
    loss: TaskLoss | None = None,
) -> Artifact:
    """Train a copy of the artifact's module on samples; `loss` stands in for the module's own.

    Returns the artifact with the averaged weights, in eval mode, and one more line in its log. The same module,
    settings and samples give the same weights, on the same machine and number of threads.
    Raises ModelError when there is no loss, or when it stops being a number; DataError when there is nothing to learn
    from.
    """
    module = copy.deepcopy(artifact.model)
    loss = loss or own_loss(module)
    around = around or Around()
    start = time.monotonic()
    dataset = load(samples, preprocessing, around.track, settings.hold_mb, loss.labels)
    settings = settled(settings, len(dataset.pictures))
    batches = feed(dataset, settings)

    def loss_of(turn: Turn) -> Tensor:
        inputs, batch = batches(turn)
        inputs = inputs.to(settings.device)
        with explained(module, inputs):
            return loss.of(module(inputs), batch)

    around = replace(around, names=batches.names, inputs=lambda turn: batches(turn)[0])
    trained = run_steps(module, settings, loss_of, around)
    line = f"train: {trained.steps} steps of {settings.batch_size} from {len(samples)} samples, loss {trained.loss:.4f}"
    if trained.metric is not None:
        line += f", best metric {trained.metric:.4f}"
    seconds = time.monotonic() - start
    return replace(artifact, model=trained.module, log=(*artifact.log, f"{line}, {seconds:.0f} s"))


def settled(settings: Training, images: int) -> Training:
    """The settings with their number of steps; raises RecipeError for a batch that the processes cannot share."""
    parts = settings.accumulate * ranks.count()
    if settings.batch_size % parts:
        raise RecipeError(
            f"batch_size: expected a multiple of {parts}, the processes times accumulate, got {settings.batch_size}; "
            "mend it, or start another number of processes"
        )
    return settings.model_copy(update={"steps": settings.count_steps(images), "epochs": None})


def in_float32(of: LossOf) -> LossOf:
    """The loss as it is without mixed precision, of outputs that may have been computed with it.

    Where it raises because outputs are no numbers, it is none either: the loop names step and samples then.
    """

    def widened(outputs: Any, samples: Sequence[Sample]) -> Tensor:
        device = _device_of(outputs)
        if not torch.is_autocast_enabled(device.type):
            return of(outputs, samples)
        with torch.autocast(device.type, enabled=False):
            return of(_mapped(outputs, lambda value: value.float() if value.is_floating_point() else value), samples)

    def told(outputs: Any, samples: Sequence[Sample]) -> Tensor:
        try:
            return widened(outputs, samples)
        except (RuntimeError, ValueError):
            if _all_finite(outputs):
                raise
            return torch.tensor(math.nan, device=_device_of(outputs))

    return told


def _all_finite(outputs: Any) -> bool:
    found: list[bool] = []

    def look(value: Tensor) -> Tensor:
        found.append(bool(torch.isfinite(value).all()))
        return value

    _mapped(outputs, look)
    return all(found)


class explained:  # noqa: N801 (reads as a function)
    """Turns what a user's network and loss raise into one line."""

    def __init__(self, module: nn.Module, inputs: Tensor) -> None:
        self.module, self.inputs = module, inputs

    def __enter__(self) -> None:
        refuse_several(self.module, self.inputs)

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, AvcompressError):
            raise ModelError(
                f"train: expected {type(self.module).__name__} to take {tuple(self.inputs.shape)} and its labels, got "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; check preprocess.size, model.args and "
                "the classes"
            ) from error


def refuse_several(module: nn.Module, inputs: Tensor) -> None:
    """Raise ModelError for several images where a network that was imported from ONNX has place for one alone."""
    alone = getattr(module, "meta", {}).get("one_image")
    if alone and len(inputs) > 1:
        raise ModelError(
            f"{alone}: expected one image at a time, as the file's shapes have no place for more there, got "
            f"{len(inputs)}; set accumulate to batch_size"
        )


def own_loss(module: nn.Module) -> TaskLoss:
    """The loss of the module's own methods; raises ModelError where it has none."""
    missing = [name for name in ("targets", "loss") if not callable(getattr(module, name, None))]
    if missing:
        raise ModelError(
            f"{type(module).__name__}: expected the methods targets(samples) and loss(outputs, targets) to train it, "
            f"got no {' and no '.join(missing)}; add them, name a `loss` in the recipe, or leave the `train` stage out"
        )
    trainable = cast(Trainable, module)

    def of(outputs: Any, samples: Sequence[Sample]) -> Tensor:
        return trainable.loss(outputs, moved(trainable.targets(samples), _device_of(outputs)))

    return TaskLoss(in_float32(of))


def _device_of(outputs: Any) -> torch.device:
    match outputs:
        case Tensor():
            return outputs.device
        case Mapping():
            return _device_of(next(iter(outputs.values())))
        case list() | tuple():
            return _device_of(outputs[0])
        case _:
            return torch.device("cpu")


def moved(value: Any, device: torch.device) -> Any:
    """The same with every tensor in it on a device: in tuples, lists, mappings and dataclasses."""
    return _mapped(value, lambda tensor: tensor.to(device))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    match value:
        case Tensor():
            return change(value)
        case Mapping():
            return {key: _mapped(item, change) for key, item in value.items()}
        case tuple() if hasattr(value, "_fields"):
            return type(value)(*(_mapped(item, change) for item in value))
        case list() | tuple():
            return type(value)(_mapped(item, change) for item in value)
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return replace(
                value, **{f.name: _mapped(getattr(value, f.name), change) for f in dataclasses.fields(value)}
            )
        case _:
            return value
