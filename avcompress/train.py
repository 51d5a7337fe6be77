"""The one training loop, and how labelled samples become its batches.

A module that can be trained brings two methods besides `forward`:

    targets(samples) -> anything    from a batch of calibration.sample.Sample, moved into pixels of the network's input
    loss(outputs, targets) -> ()    from what forward returned and what targets returned

`samples[i].image` is the (H, W, 3) uint8 picture behind input i before scaling and shifting, boxes and mask lie on it.
The loop itself (`run_steps`) knows neither: it asks for the loss of a step, whatever that is made of.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from avcompress.recipe import Preprocess, Train
from avcompress.spec import Array, Artifact, AvcompressError, DataError, ModelError, Track, untracked
from calibration.preprocess import mask_to_network, preprocess, to_network
from calibration.sample import Sample, Source

WARMUP = 0.05
"""Share of the steps in which the learning rate rises; after it, it falls along half a cosine."""
FINAL_RATE = 0.02
"""What is left of the learning rate at the end."""
CLIP = 10.0
"""Largest norm of the gradient."""
HORIZON = 0.03
"""Share of the steps over which weights are averaged: longer, and the poor ones of the beginning weigh in."""
BRIGHTNESS = 0.25


class Trainable(Protocol):
    """What a module has to offer besides `forward`."""

    def targets(self, samples: Sequence[Sample]) -> Any:
        """Turn the labels of a batch into what `loss` wants."""
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """A scalar to make small."""
        ...


def train(
    artifact: Artifact, settings: Train, samples: Source, preprocessing: Preprocess, track: Track = untracked
) -> Artifact:
    """Train a copy of the artifact's module on labelled samples.

    Returns the artifact with the averaged weights, in eval mode, and one more line in its log. The same module,
    settings and samples give the same weights, on the same machine and number of threads.
    Raises ModelError when the module brings no `loss` and `targets`, or when the loss stops being a number; DataError
    when there is nothing to learn from.
    """
    module = copy.deepcopy(artifact.model)
    trainable = _trainable(module)
    start = time.monotonic()
    dataset = load(samples, preprocessing, track)
    order = batch_order(len(dataset.pictures), settings)

    def loss_of(step: int) -> Tensor:
        inputs, batch = dataset.batch(order[step], np.random.default_rng((settings.seed, step)))
        try:
            return trainable.loss(module(inputs), trainable.targets(batch))
        except AvcompressError:
            raise
        except Exception as error:  # whatever a user's network and loss raise
            raise ModelError(
                f"train: expected {type(module).__name__} to take {tuple(inputs.shape)} and its labels, got "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; check preprocess.size, model.args and "
                "the classes"
            ) from error

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        averaged, final = run_steps(module, settings, loss_of, track)
    seconds = time.monotonic() - start
    line = f"train: {settings.steps} steps of {settings.batch_size} from {len(samples)} samples, loss {final:.4f}"
    return replace(artifact, model=averaged.eval(), log=(*artifact.log, f"{line}, {seconds:.0f} s"))


def _trainable(module: nn.Module) -> Trainable:
    missing = [name for name in ("targets", "loss") if not callable(getattr(module, name, None))]
    if missing:
        raise ModelError(
            f"{type(module).__name__}: expected the methods targets(samples) and loss(outputs, targets) to train it, "
            f"got no {' and no '.join(missing)}; add them, or leave the `train` stage out"
        )
    return cast(Trainable, module)


# --- the loop


def run_steps(
    module: nn.Module, settings: Train, loss_of: Callable[[int], Tensor], track: Track = untracked
) -> tuple[nn.Module, float]:
    """Make `loss_of(step)` small by changing the module's parameters in place.

    Returns a module with the averaged parameters and the mean loss of the last steps. Raises ModelError, naming the
    step, when the loss is not a finite number.
    Source: AdamW, arXiv:1711.05101; cosine schedule, arXiv:1608.03983; averaging, Polyak and Juditsky 1992.
    """
    module.train()
    averaged = copy.deepcopy(module).requires_grad_(False)
    optimizer = torch.optim.AdamW(_groups(module, settings.weight_decay), lr=settings.learning_rate)
    keep = 1 - 1 / max(2.0, HORIZON * settings.steps)
    tail: list[float] = []
    for step in track(range(settings.steps), settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(step, settings.steps)
        loss = loss_of(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ModelError(
                f"train: expected a finite loss, got {value} at step {step}; "
                "lower the learning rate, or look for damaged labels"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        average_(averaged, module, keep)
        tail = [*tail[-19:], value]
    return averaged, float(np.mean(tail))


def rate(step: int, steps: int) -> float:
    """The learning rate's factor: a linear rise, then half a cosine."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


def _groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay weights; leave biases and normalization alone."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def average_(averaged: nn.Module, module: nn.Module, keep: float) -> None:
    """Move the averaged state towards the module's: keep * averaged + (1 - keep) * module."""
    ours, theirs = averaged.state_dict(), module.state_dict()
    floats = [name for name, value in ours.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - keep)
    for name in ours.keys() - set(floats):
        ours[name].copy_(theirs[name])


# --- the data


@dataclass(frozen=True)
class Dataset:
    """Samples in pixels of the network's input, ready to be gathered.

    Attributes:
        pictures: name, (H, W, 3) uint8 image in the network's channel order, boxes and mask on it.
        table: (3, 256) float32, the network's input for every value of a channel.
    """

    pictures: tuple[Sample, ...]
    table: Array

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, list[Sample]]:
        """Inputs (B, 3, H, W) float32 and their samples, mirrored and lit by chance."""
        inputs, batch = [], []
        for index in indices:
            picture = self.pictures[index]
            if rng.random() < 0.5:
                picture = mirror(picture)
            gain = rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)
            lit = np.clip(np.arange(256) * gain + 0.5, 0, 255).astype(np.uint8)
            batch.append(replace(picture, image=cv2.LUT(picture.image, lit)))
            planes = zip(cv2.split(picture.image), self.table, strict=True)
            inputs.append(np.stack([cv2.LUT(plane, values[lit]) for plane, values in planes]))
        return torch.from_numpy(np.stack(inputs)), batch


def load(samples: Source, preprocessing: Preprocess, track: Track = untracked) -> Dataset:
    """Bring every sample into pixels of the network's input, once, and keep it as bytes.

    Raises DataError for a sample without labels, or when there is none.
    """
    raw = preprocessing.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3, "scale": 1.0})
    pictures = tuple(_to_network(sample, raw) for sample in track(samples, len(samples)))
    if not pictures:
        raise DataError("train: expected samples to learn from, got none; check data.train")
    return Dataset(pictures, _table(preprocessing))


def _to_network(sample: Sample, raw: Preprocess) -> Sample:
    if sample.boxes is None and sample.mask is None:
        raise DataError(f"{sample.name}: expected boxes or a mask to learn from, got neither; check data.train")
    pixels, geometry = preprocess(sample.image, raw)
    image = np.ascontiguousarray(pixels[0].transpose(1, 2, 0).astype(np.uint8))
    boxes, mask = sample.boxes, sample.mask
    if boxes is not None:
        boxes = replace(boxes, xyxy=to_network(boxes.xyxy, geometry))
    if mask is not None:
        mask = mask_to_network(mask, raw)
    return Sample(sample.name, image, boxes, mask)


def _table(preprocessing: Preprocess) -> Array:
    """What preprocessing makes of each of the 256 values, by channel of the network: (3, 256) float32."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    values, _ = preprocess(ramp, preprocessing.model_copy(update={"size": (1, 256)}))
    table: Array = values[0, :, 0]
    return table


def mirror(sample: Sample) -> Sample:
    """Exchange left and right."""
    width = sample.image.shape[1]
    boxes, mask = sample.boxes, sample.mask
    if boxes is not None:
        xyxy = boxes.xyxy[:, (2, 1, 0, 3)] * np.array((-1, 1, -1, 1), np.float32)
        boxes = replace(boxes, xyxy=xyxy + np.array((width, 0, width, 0), np.float32))
    if mask is not None:
        mask = np.ascontiguousarray(mask[:, ::-1])
    return replace(sample, image=np.ascontiguousarray(sample.image[:, ::-1]), boxes=boxes, mask=mask)


def batch_order(count: int, settings: Train) -> Array:
    """Sample indices (steps, batch_size): every sample once before any comes again."""
    rng = np.random.default_rng(settings.seed)
    rounds = -(-settings.steps * settings.batch_size // count)
    order = np.concatenate([rng.permutation(count) for _ in range(rounds)])
    return order[: settings.steps * settings.batch_size].reshape(settings.steps, settings.batch_size)
