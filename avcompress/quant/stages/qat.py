"""Quantization-aware training: the quantized network learns with its rounding in place, its scales along with it.

It starts from what `ptq` and the repairs after it have left. Q/DQ stay where they are and tied scales stay tied: what
changes are the numbers in the graph.

Sources: as in avcompress.quant.learning.learned_steps; that a quantized network learns best from its own float self:
Mishra and Marr: Apprentice, arXiv:1711.05852.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from avcompress.onnx_import import import_onnx
from avcompress.quant.learning.float_twin import float_twin
from avcompress.quant.learning.qat_module import Site, centre_, qat_module, trained_artifact, weight_paths
from avcompress.quant.learning.quantizers import QuantizedWeight, Quantizer, groups
from avcompress.recipe import Preprocess
from avcompress.recipe_qat import Qat
from avcompress.spec import Artifact
from avcompress.train import Around, Feed, Turn, Zeros, feed, load, run_steps, settled, zeros_of
from avcompress.train.recovery import explained
from calibration.sample import Sample, Source

LossOf = Callable[[Any, Any, Sequence[Sample]], Tensor]
"""From what the network returned, what its float self returned, and the samples of the batch, to a scalar."""


class Learner(Protocol):
    """What is trained: a module that holds the network, and what is trained along with it."""

    student: nn.Module

    def loss(self, inputs: Tensor, targets: Any = None) -> Tensor:
        """A scalar to make small, of one batch."""
        ...


@dataclass(frozen=True)
class Lesson:
    """What the network learns.

    Attributes:
        make: the learner, a torch module, from the network, its float self and an example of the inputs.
        labels: whether the samples need labels.
    """

    make: Callable[[nn.Module, nn.Module, Tensor], Learner]
    labels: bool = False


class Apprentice(nn.Module):
    """A network that is held against its float self by any loss."""

    def __init__(self, student: nn.Module, float_self: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.student = student
        self.loss_of = loss_of
        # A function, and no submodule: copies of the learner share the float network.
        self.ask = _asked(float_self)

    def loss(self, inputs: Tensor, targets: Any = None) -> Tensor:
        """Of one batch."""
        return self.loss_of(self.student(inputs), self.ask(inputs), targets)


def _asked(module: nn.Module) -> Callable[[Tensor], Any]:
    def ask(inputs: Tensor) -> Any:
        with torch.no_grad():
            return module.to(inputs.device)(inputs)

    return ask


def output_distance(outputs: Any, float_outputs: Any, samples: Sequence[Sample]) -> Tensor:  # noqa: ARG001
    """The squared difference of the outputs to the float ones', in parts of those's variance; the mean over outputs."""
    ours, theirs = (each if isinstance(each, tuple) else (each,) for each in (outputs, float_outputs))
    parts = [_distance(a, b) for a, b in zip(ours, theirs, strict=True) if b.is_floating_point()]
    return torch.stack(parts).mean()


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    spread = (theirs - theirs.mean()).square().mean().clamp(min=torch.finfo(torch.float32).tiny)
    return (ours - theirs).square().mean() / spread


def by(loss_of: LossOf, labels: bool = False) -> Lesson:
    """A lesson by a loss of outputs alone."""
    return Lesson(lambda student, float_self, _: Apprentice(student, float_self, loss_of), labels)


def qat(
    artifact: Artifact,
    settings: Qat,
    samples: Source,
    preprocessing: Preprocess,
    around: Around | None = None,
    lesson: Lesson | None = None,
) -> Artifact:
    """Train a quantized onnx.ModelProto on images; without a lesson, to give what its float self does.

    Returns the artifact with new constants in the same graph, and their parameters. The same artifact, settings and
    samples give the same bytes, on the same machine and number of threads.
    Raises RecipeError for settings that do not fit the network, ModelError when the loss stops being a number or an
    operator cannot be trained, DataError when there is nothing to learn from.
    """
    around, lesson = around or Around(), lesson or by(output_distance)
    dataset = load(samples, preprocessing, around.track, settings.hold_mb, labels=lesson.labels)
    return learn(artifact, settings, feed(dataset, settled(settings, len(dataset.pictures))), lesson, around)


def learn(artifact: Artifact, settings: Qat, batches: Feed, lesson: Lesson, around: Around) -> Artifact:
    """Train a quantized onnx.ModelProto on batches that are at hand; the rest is as in `qat`.

    The feed's own settings are `settings` with their number of steps.
    """
    start, plan = time.monotonic(), batches.settings
    student = qat_module(artifact, settings)
    float_self = import_onnx(artifact.reference).requires_grad_(False).eval()
    example, _ = batches.dataset.batch([0], np.random.default_rng(plan.seed))
    centre_(student, batches.some(_CENTRED_ON))
    learner = lesson.make(student, float_self, example)

    def loss_of(turn: Turn) -> Tensor:
        inputs, batch = batches(turn)
        inputs = inputs.to(plan.device)
        with explained(student, inputs):
            loss = learner.loss(inputs, batch)
        return loss + clip_penalty(learner.student, settings) if settings.method == "pact" else loss

    around = replace(_surroundings(around, settings, batches.names), zeros=_zeros(student, artifact))
    trained = run_steps(cast(nn.Module, learner), plan, loss_of, around)
    network = network_of(trained.module)
    line = f"{settings.method}, {trained.steps} steps of {plan.batch_size} from {len(batches.dataset.names)} images"
    line += f", loss {trained.loss:.4g}" + ("" if trained.metric is None else f", best metric {trained.metric:.4f}")
    lines = (f"{line}, {time.monotonic() - start:.0f} s", _moves(network))
    done = trained_artifact(artifact, network)
    return replace(
        done, trained=float_twin(artifact, network), log=(*artifact.log, *(f"qat: {each}" for each in lines))
    )


_CENTRED_ON = 8


def network_of(learner: nn.Module) -> fx.GraphModule:
    """The network that a learner, or a copy of it, holds."""
    return cast(fx.GraphModule, learner.student)


def _zeros(student: fx.GraphModule, artifact: Artifact) -> Zeros | None:
    """Those of the artifact's sparse weights, which stay."""
    paths = weight_paths(student, artifact.sparse)
    return zeros_of(f"student.{path}" for path in paths) if paths else None


def _surroundings(around: Around, settings: Qat, names: Callable[[int], Sequence[str]]) -> Around:
    factor = settings.scale_rate / settings.learning_rate

    def grouped(module: nn.Module, decay: float) -> list[dict[str, Any]]:
        return groups(module, decay, factor)

    return replace(around, names=names, groups=grouped)


def clip_penalty(student: nn.Module, settings: Qat) -> Tensor:
    """PACT's regularizer: without it nothing but the loss would narrow a range.

    Source: PACT, arXiv:1805.06085, section 3.1; a clip counts in parts of what it was, so that no layer's unit matters.
    """
    clips = [m.growth for m in student.modules() if isinstance(m, Quantizer) and not isinstance(m, QuantizedWeight)]
    parts = [(2 * growth).exp().sum() for growth in clips if growth is not None]
    return settings.pact_decay * torch.stack(parts).sum() if parts else torch.zeros(())


def _moves(network: fx.GraphModule) -> str:
    """One line: by how much scales have changed."""
    sites: tuple[Site, ...] = network.meta["sites"]
    found = {site.quantizer: cast(Quantizer, network.get_submodule(site.quantizer)) for site in sites}
    shares: dict[str, list[Tensor]] = {"activations": [], "weights": []}
    for module in found.values():
        kind = "weights" if isinstance(module, QuantizedWeight) else "activations"
        shares[kind].append((module.scale() / module.base - 1).detach().abs().reshape(-1))
    parts = [f"{kind} by {100 * float(torch.cat(each).mean()):.1f} %" for kind, each in shares.items() if each]
    return f"scales changed on average: {', '.join(parts)}"
