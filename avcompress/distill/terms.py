"""One loss of a recipe between two networks: where it looks, what it brings along to be trained, what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import assert_never

from avcompress.distill import boxes, features, soft
from avcompress.distill.pairs import OUTPUTS, Pair, adapter, check_maps, same_size, shape_at
from avcompress.distill.taps import OUTPUT, Record
from avcompress.recipe import Detection
from avcompress.recipe_distill import (
    Attention,
    ChannelWise,
    Features,
    Itself,
    Labels,
    Localisation,
    Loss,
    Masked,
    Mutual,
    Response,
    Soft,
)
from avcompress.spec import DataError, ModelError, RecipeError
from engines.postprocess import check_shape

Size = tuple[int, int]
LabelLoss = Callable[[Any, Any], Tensor]
"""From what a network returned and the targets of the batch to a scalar."""


@dataclass(frozen=True)
class Subject:
    """What is learned, besides what the two networks' tensors say.

    Attributes:
        task: how a detector's output is decoded; None for other networks.
        label_loss: the task's own loss; None where it has none.
    """

    task: Detection | None = None
    label_loss: LabelLoss | None = None

    def hard(self, output: Any, targets: Any) -> Tensor:
        """The labels' own loss; raises where there is no such loss, or there are no labels."""
        if self.label_loss is None:
            raise ModelError(
                "losses: expected the network's own loss for `labels` and `alpha`, got none; give the module a method "
                "loss(outputs, targets), or leave them out"
            )
        if targets is None:
            raise DataError(
                "losses: expected labelled samples for `labels` and `alpha`, got samples without labels; "
                "leave these losses out, or check data.train"
            )
        return self.label_loss(output, targets)

    def detector(self) -> Detection:
        """How to decode; raises RecipeError for another task."""
        if self.task is None:
            raise RecipeError(
                "losses: expected task: detection for `response` and `localisation`, got another one; "
                "use `soft` or `cwd`"
            )
        return self.task


@dataclass(frozen=True)
class Lesson:
    """One batch: what both networks gave, their targets, and the size of the input."""

    student: Record
    teacher: Record
    targets: Any
    size: Size


class Term(nn.Module):
    """One loss: `pairs` are where it looks, `adapters` and `generators` are trained along with the student."""

    def __init__(self, settings: Loss, pairs: tuple[Pair, ...], subject: Subject) -> None:
        super().__init__()
        self.settings, self.pairs, self.subject = settings, pairs, subject
        self.adapters = nn.ModuleList()
        self.generators = nn.ModuleList()

    def prepare_(self, lesson: Lesson) -> None:
        """Check the shapes of an example, and make what is trained along. Raises ModelError naming the tap."""
        if isinstance(self.settings, Labels):
            return
        if self._decodes():
            self._check_detector(lesson)
        for pair in self.pairs:
            ours = shape_at(lesson.student, pair.student, "student")
            side = "student" if isinstance(self.settings, Itself) else "teacher"
            theirs = shape_at(lesson.teacher, pair.teacher, side)
            check_maps(pair, ours, theirs, not self._adapts(pair) and not self._ignores_channels())
            if self._adapts(pair):
                self.adapters.append(adapter(ours, theirs))
            if isinstance(self.settings, Masked):
                self.generators.append(_generator(theirs[1]))

    def _decodes(self) -> bool:
        match self.settings:
            case Response() | Mutual(by=Response()) | Localisation(form="giou" | "l1"):
                return True
            case _:
                return False

    def _adapts(self, pair: Pair) -> bool:
        match self.settings:
            case Features() | Masked():
                return True
            case ChannelWise():
                return pair != OUTPUTS
            case Itself(by=by):
                return by == "features"
            case _:
                return False

    def _ignores_channels(self) -> bool:
        return isinstance(self.settings, Attention) or (
            isinstance(self.settings, Itself) and self.settings.by == "attention"
        )

    def _check_detector(self, lesson: Lesson) -> None:
        task = self.subject.detector()
        for record, where in ((lesson.student, "student"), (lesson.teacher, "teacher")):
            shape = shape_at(record, OUTPUT, where)
            check_shape(where, (1, *shape[1:]), task, lesson.size)

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch, without its weight: ()."""
        match self.settings:
            case Labels():
                return self.subject.hard(lesson.student.output, lesson.targets)
            case Mutual(by=by):
                return self._of_outputs(by, lesson)
            case Soft() | Response():
                return self._of_outputs(self.settings, lesson)
            case Localisation():
                return self._of_places(self.settings, lesson)
            case Attention() | Features() | ChannelWise() | Masked() | Itself():
                losses = [self._of_maps(i, *self._maps(i, lesson)) for i in range(len(self.pairs))]
                return sum(losses[1:], losses[0]) / len(losses)
            case _:
                assert_never(self.settings)

    def _of_outputs(self, settings: Soft | Response, lesson: Lesson) -> Tensor:
        if isinstance(settings, Response):
            ours, theirs = self._predictions(lesson)
            return boxes.response(ours, theirs, settings.temperature, settings.boxes)
        divergence = soft.softmax_divergence if settings.classes == "softmax" else soft.sigmoid_divergence
        student, teacher = lesson.student.output.float(), lesson.teacher.output.float()
        if student.dim() == 4:
            student, teacher = same_size(student, teacher)
        loss = divergence(student, teacher, settings.temperature, settings.axis)
        if not settings.alpha:
            return loss
        hard = self.subject.hard(lesson.student.output, lesson.targets)
        return soft.mixed(hard, loss, settings.alpha)

    def _predictions(self, lesson: Lesson) -> tuple[boxes.Predictions, boxes.Predictions]:
        task = self.subject.detector()
        ours, theirs = lesson.student.output.float(), lesson.teacher.output.float()
        return boxes.predictions(ours, task, lesson.size), boxes.predictions(theirs, task, lesson.size)

    def _of_places(self, settings: Localisation, lesson: Lesson) -> Tensor:
        match settings.form:
            case "giou":
                return boxes.box_overlap(*self._predictions(lesson))
            case "l1":
                return boxes.box_distance(*self._predictions(lesson))
            case "distribution":
                # The taps of the boxes come first, then those of the scores, as many or none.
                count = len(self.pairs) // 2 if settings.scores else len(self.pairs)
                losses = [self._of_bins(settings, lesson, i, count) for i in range(count)]
                return sum(losses[1:], losses[0]) / count
            case _:
                assert_never(settings.form)

    def _of_bins(self, settings: Localisation, lesson: Lesson, index: int, count: int) -> Tensor:
        ours = lesson.student.at(self.pairs[index].student).float()
        theirs = lesson.teacher.at(self.pairs[index].teacher).float()
        weight = None
        if settings.scores:
            weight = lesson.teacher.at(self.pairs[count + index].teacher).float().amax(1).sigmoid()
        return boxes.distribution_divergence(ours, theirs, settings.bins, settings.temperature, weight)

    def _maps(self, index: int, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """The two feature maps of a pair, adapted and of one size."""
        pair = self.pairs[index]
        student, teacher = lesson.student.at(pair.student), lesson.teacher.at(pair.teacher)
        if isinstance(self.settings, Itself):
            teacher = teacher.detach()
        if self.adapters:
            student = self.adapters[index](student)
        return same_size(student.float(), teacher.float()) if student.dim() == 4 else (student.float(), teacher.float())

    def _of_maps(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        match self.settings:
            case ChannelWise(temperature=temperature):
                return features.channel_wise(student, teacher, temperature)
            case Masked(mask=share):
                keep = features.random_keep(student, share)
                return features.masked_generation(student, teacher, keep, self.generators[index])
            case Features(standardize=standardize):
                return features.mimicry(student, teacher, standardize)
            case Itself(by="features"):
                return features.mimicry(student, teacher, True)
            case _:
                return features.attention_transfer(student, teacher)


def _generator(channels: int) -> nn.Module:
    """What fills in masked features. Source: MGD, arXiv:2205.01529."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
    )
