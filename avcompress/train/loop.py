"""The one training loop, for recovery, distillation and quantization-aware training.

It asks for the loss of a step, whatever that is made of. Whatever is trained lies in one module: weights, and scales of
quantizers, too. Under torchrun every process computes its part of each batch, and gradients are averaged.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from avcompress import ranks
from avcompress.recipe_training import Training
from avcompress.spec import MissingError, ModelError, Track, untracked
from avcompress.train.descent import average_, groups, kept, make_optimizer, relative, set_rate_
from avcompress.train.norms import BATCHES, joint_statistics, reestimate_, set_mode_
from avcompress.train.state import Best, Progress, Store, all_finite, identity, keep_, restore_
from avcompress.train.zeros import Masks, Zeros, mask_, mask_gradients_

_TAIL = 20
"""So many losses at the end are averaged."""
_NAMED = 4
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Turn(NamedTuple):
    """One pass forward and back: part `part` of the `parts` equal ones of a step's batch."""

    step: int
    part: int = 0
    parts: int = 1

    def share(self, size: int) -> slice:
        """Which of a batch's samples it takes."""
        each = size // self.parts
        return slice(self.part * each, (self.part + 1) * each)


Groups = Callable[[nn.Module, float], list[dict[str, Any]]]


@dataclass(frozen=True)
class Around:
    """What there is around a loop; all of it may be left out.

    Attributes:
        track: watches the steps.
        names: of a step's samples, for messages.
        inputs: of a turn, for what is re-estimated after training.
        judge: how good a network is, the higher the better; it is given one in eval mode on the CPU, and only the
            leading process asks.
        store: where checkpoints go, and are gone on from.
        log: takes a step and its values by name.
        groups: the optimizer's parameters, given the module and the weight decay; each group may have a `factor` on
            the learning rate.
        zeros: of the module, that stay.
    """

    track: Track = untracked
    names: Callable[[int], Sequence[str]] | None = None
    inputs: Callable[[Turn], Tensor] | None = None
    judge: Callable[[nn.Module], float] | None = None
    store: Store | None = None
    log: Callable[[int, Mapping[str, float]], None] | None = None
    groups: Groups = groups
    zeros: Zeros | None = None


class Trained(NamedTuple):
    """What a loop ends with: the averaged module, or the best one; the last losses' mean; steps done; its metric."""

    module: nn.Module
    loss: float
    steps: int
    metric: float | None


class _Loss(nn.Module):
    """The loss of a turn as the forward of a module around the trained one: what DistributedDataParallel takes."""

    def __init__(self, module: nn.Module, loss_of: Callable[[Turn], Tensor]) -> None:
        super().__init__()
        self.module = module
        self.loss_of = loss_of

    def forward(self, turn: Turn) -> Tensor:
        return self.loss_of(turn)


def run_steps(
    module: nn.Module, settings: Training, loss_of: Callable[[Turn], Tensor], around: Around | None = None
) -> Trained:
    """Make `loss_of(turn)` small by changing the module's parameters in place, on the device of the settings.

    The same module, settings and losses give the same weights, on the same machine and number of threads; gone on with
    from a checkpoint, too. Returns a module in eval mode on the CPU.
    Raises ModelError, naming step and samples, when the loss or its gradient is not finite: the last checkpoint stays.
    """
    around, steps, device = around or Around(), settings.count_steps(0), _device(settings)
    belongs = identity(module, settings, around.store) if around.store else {}
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(settings.seed)
        progress = _begin(module.to(device), settings, around)
        compute = _shared(_Loss(progress.module, loss_of))
        if around.store:
            restore_(progress, around.store, belongs)
        for step in around.track(range(progress.step, steps), steps - progress.step):
            _step_(progress, settings, compute, step, around)
            last = progress.step == steps
            keeps = around.store is not None and progress.step % settings.keep_every == 0 and not last
            # The loss of the next step tells of the others; after the last one there is none.
            _refuse_bad(not (keeps or last) or all_finite(progress), "value of every weight", step, around)
            due = _due(settings.validate_every, progress.step, last) and _has_its_zeros(progress, around)
            if due and _waits_too_long(progress, settings, around):
                break
            if around.store and keeps:
                keep_(progress, around.store, belongs)
        return _finish(progress, settings, around)


def _device(settings: Training) -> torch.device:
    if settings.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise MissingError(
            "device: expected cuda, got none that torch sees; set device: cpu, or install a build of torch for this GPU"
        )
    torch.cuda.set_device(ranks.local_rank())
    return torch.device("cuda", ranks.local_rank())


def _begin(module: nn.Module, settings: Training, around: Around) -> Progress:
    averaged = copy.deepcopy(module).requires_grad_(False).eval()
    frozen = settings.batch_norm == "frozen"
    module = module if frozen else joint_statistics(module)
    set_mode_(module, frozen)
    parts = around.groups(module, settings.weight_decay)
    optimizer = make_optimizer(relative(parts) if settings.rates == "relative" else parts, settings)
    scaler = torch.amp.GradScaler(settings.device, enabled=settings.precision == "fp16")
    return Progress(module, averaged, optimizer, scaler)


def _shared(loss: _Loss) -> nn.Module:
    """The loss whose gradients are those of all processes; a loss need not touch every parameter."""
    if ranks.count() == 1:
        return loss
    with ranks.listening():
        return nn.parallel.DistributedDataParallel(loss, find_unused_parameters=True)


def _step_(progress: Progress, settings: Training, compute: nn.Module, step: int, around: Around) -> None:
    """Go one step down."""
    steps = settings.count_steps(0)
    current = set_rate_(progress.optimizer, settings, step, steps)
    masks = around.zeros.masks(progress.module) if around.zeros else {}
    with ranks.listening():
        value = _descend_(progress, settings, compute, step, around)
    mask_gradients_(progress.module, masks)
    norm = _clip_(progress, settings)
    _refuse_bad(progress.scaler.is_enabled() or norm is None or math.isfinite(norm), "gradient", step, around)
    progress.scaler.step(progress.optimizer)
    progress.scaler.update()
    _average_(progress, kept(settings, steps), masks, around.zeros)
    progress.tail = [*progress.tail[1 - _TAIL :], value]
    progress.step = step + 1
    if around.log:
        around.log(step, {"loss": value, "learning rate": current} | ({} if norm is None else {"gradient": norm}))


def _average_(progress: Progress, keep: float, masks: Masks, zeros: Zeros | None) -> None:
    """Move the averaged network towards the one that a step has changed; both have the same zeros."""
    mask_(progress.module, masks)
    if zeros and zeros.grow_:
        zeros.grow_(progress.module, progress.step + 1)
    average_(progress.averaged, progress.module, keep)
    if zeros:
        mask_(progress.averaged, zeros.masks(progress.module))


def _descend_(progress: Progress, settings: Training, compute: nn.Module, step: int, around: Around) -> float:
    """Add up the gradient of a step's turns; returns the loss."""
    count = settings.accumulate
    values = []
    for part in range(count):
        turn = Turn(step, ranks.rank() * count + part, count * ranks.count())
        with _arithmetic(settings):
            loss = compute(turn)
        values.append(float(ranks.mean(loss.detach())))
        _refuse_bad(math.isfinite(values[-1]), "loss", step, around, values[-1])
        if not part:
            progress.optimizer.zero_grad(set_to_none=True)
        progress.scaler.scale(loss if count == 1 else loss / count).backward()
    return sum(values) / count


def _arithmetic(settings: Training) -> contextlib.AbstractContextManager[Any]:
    if settings.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(settings.device, _DTYPES[settings.precision])


def _clip_(progress: Progress, settings: Training) -> float | None:
    """Shorten the gradient to the largest norm allowed; returns what it was."""
    if settings.clip is None:
        return None
    progress.scaler.unscale_(progress.optimizer)
    return float(nn.utils.clip_grad_norm_(progress.module.parameters(), settings.clip))


def _refuse_bad(good: bool, what: str, step: int, around: Around, got: float = math.nan) -> None:
    if good:
        return
    names = list(around.names(step)) if around.names else []
    batch = f" ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})" if names else ""
    kept_one = around.store is not None and around.store.path.exists()
    still = f"the checkpoint {around.store.path} stays; " if around.store and kept_one else ""
    raise ModelError(
        f"train: expected a finite {what}, got {got} at step {step}{batch}; {still}"
        "lower the learning rate, or look for damaged labels, and start without --resume"
    )


# --- measurements and the end


def _due(every: int | None, done: int, last: bool) -> bool:
    return every is not None and (last or done % every == 0)


def _has_its_zeros(progress: Progress, around: Around) -> bool:
    return around.zeros is None or progress.step >= around.zeros.final


def _waits_too_long(progress: Progress, settings: Training, around: Around) -> bool:
    """Measure the averaged network; True once there was no better one for too long."""
    if around.judge is None:
        return False
    metric = ranks.agreed(_measured(progress, around.judge) if ranks.leads() else 0.0)
    if around.log:
        around.log(progress.step - 1, {"metric": metric})
    best = progress.best
    if best is None or metric > best.metric or math.isnan(best.metric):
        state = {name: value.detach().clone() for name, value in progress.averaged.state_dict().items()}
        progress.best = Best(metric, state)
        return False
    best.waited += 1
    return best.waited >= settings.patience


def _measured(progress: Progress, judge: Callable[[nn.Module], float]) -> float:
    """A measurement must not change what is trained after it: it gets a copy, and random numbers of its own."""
    with torch.random.fork_rng(devices=()):
        return float(judge(copy.deepcopy(progress.averaged).cpu()))


def _finish(progress: Progress, settings: Training, around: Around) -> Trained:
    module = progress.averaged
    if progress.best is not None:
        module.load_state_dict(progress.best.state)
    if settings.batch_norm == "reestimate" and around.inputs is not None:
        reestimate_(module, _inputs(settings, around.inputs))
    metric = None if progress.best is None else progress.best.metric
    loss = float(np.mean(progress.tail)) if progress.tail else math.nan
    return Trained(module.cpu(), loss, progress.step, metric)


def _inputs(settings: Training, inputs: Callable[[Turn], Tensor]) -> Iterator[Tensor]:
    device = _device(settings)
    for step in range(min(BATCHES, settings.count_steps(0))):
        for part in range(settings.accumulate):
            yield inputs(Turn(step, part, settings.accumulate)).to(device)
