"""One loss of a recipe between two networks: where it looks, what it brings along to be trained, what it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from typing_extensions import assert_never

from avcompress.distill import boxes, features, soft
from avcompress.distill.pairs import adapter, check_fit, same_size, shape_at
from avcompress.distill.places import Places, check_bins, decodes, fit_of
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
        label_loss: the task's own loss, of all that a network returned and the targets; None where it has none.
        output: the one of several that the teacher's output is held against, by the name that an export gives it.
    """

    task: Detection | None = None
    label_loss: LabelLoss | None = None
    output: str | None = None

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
    """One batch: what both networks gave, their targets, and the size of the input.

    Of a student with several outputs `student` holds the one that is compared, `returned` is all of them.
    """

    student: Record
    teacher: Record
    targets: Any
    size: Size
    returned: Any = None


class Term(nn.Module):
    """One loss: where it looks, and the `adapters` and `generators` that are trained along with the student."""

    def __init__(self, settings: Loss, places: Places, subject: Subject) -> None:
        super().__init__()
        self.settings, self.pairs, self.scores, self.subject = settings, places.pairs, places.scores, subject
        self.adapters = nn.ModuleList()
        self.generators = nn.ModuleList()

    def prepare_(self, lesson: Lesson) -> None:
        """Check the shapes of an example, and make what is trained along. Raises ModelError naming the tap."""
        if decodes(self.settings):
            self._check_detector(lesson)
        for pair in self.pairs:
            fit = fit_of(self.settings, pair)
            ours = shape_at(lesson.student, pair.student, "student")
            theirs = shape_at(lesson.teacher, pair.teacher, "teacher")
            check_fit(pair, ours, theirs, fit)
            if fit.adapted:
                self.adapters.append(adapter(ours, theirs))
            if isinstance(self.settings, Masked):
                self.generators.append(_generator(theirs[1]))
        if isinstance(self.settings, Localisation):
            check_bins(self.settings, self.pairs, self.scores, lesson.teacher)

    def _check_detector(self, lesson: Lesson) -> None:
        task = self.subject.detector()
        for record, where in ((lesson.student, "student"), (lesson.teacher, "teacher")):
            shape = shape_at(record, OUTPUT, where)
            check_shape(where, (1, *shape[1:]), task, lesson.size)

    def forward(self, lesson: Lesson) -> Tensor:
        """The loss of one batch, without its weight: ()."""
        match self.settings:
            case Labels():
                return self.subject.hard(lesson.returned, lesson.targets)
            case Mutual(by=by):
                return self._of_outputs(by, lesson)
            case Soft() | Response():
                return self._of_outputs(self.settings, lesson)
            case Localisation():
                return self._of_places(self.settings, lesson)
            case Attention() | Features() | ChannelWise() | Masked() | Itself():
                return _mean([self._of_maps(i, *self._maps(i, lesson)) for i in range(len(self.pairs))])
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
        hard = self.subject.hard(lesson.returned, lesson.targets)
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
                return _mean([self._of_bins(settings, lesson, i) for i in range(len(self.pairs))])
            case _:
                assert_never(settings.form)

    def _of_bins(self, settings: Localisation, lesson: Lesson, index: int) -> Tensor:
        ours = lesson.student.at(self.pairs[index].student).float()
        theirs = lesson.teacher.at(self.pairs[index].teacher).float()
        weight = lesson.teacher.at(self.scores[index]).float().amax(1).sigmoid() if self.scores else None
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


def _mean(losses: list[Tensor]) -> Tensor:
    return sum(losses[1:], losses[0]) / len(losses)


def _generator(channels: int) -> nn.Module:
    """What fills in masked features. Source: MGD, arXiv:2205.01529."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
    )
