"""What a training loop makes small where one network learns from another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from avcompress.distill.pairs import resized
from avcompress.distill.places import find_places
from avcompress.distill.taps import OUTPUT, Record, Tapped
from avcompress.distill.teacher import Teacher, check_two_networks
from avcompress.distill.terms import Lesson, Subject, Term
from avcompress.modes import evaluating
from avcompress.outputs import chosen
from avcompress.recipe_distill import Itself, Labels, Loss, Mutual, Teaching, needs_labels
from avcompress.spec import AvcompressError, ModelError


class Distillation(nn.Module):
    """A student, and the losses by which it learns from a teacher.

    Its parameters are the student's and those that the losses train along: adapters, generators and, for mutual
    learning, the other student. The student runs in the mode that it is in, the teacher in eval mode.

    Attributes:
        student: the network that was given, not a copy.
        peer: the other student of mutual learning; None without it.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, settings: Teaching, subject: Subject) -> None:
        super().__init__()
        self.student = student
        self.losses, self.teacher_size, self.subject = settings.losses, settings.teacher_size, subject
        mutual = any(isinstance(loss, Mutual) for loss in settings.losses)
        self.peer = teacher if mutual else None
        terms = [Term(loss, find_places(loss, student, teacher), subject) for loss in settings.losses]
        self.terms = nn.ModuleList(terms)
        ours, theirs = _wanted(terms)
        self.tapped = Tapped(student, ours, "student")
        self.other = Tapped(teacher, theirs, "peer") if mutual else Teacher(teacher, theirs)
        self.taught = any(not isinstance(loss, Labels | Itself) for loss in settings.losses)

    def forward(self, inputs: Tensor) -> Any:
        """What the student gives; the other student is run too, so that its normalization sees the same images."""
        if self.peer is not None:
            self.peer(self.seen(inputs))
        return self.student(inputs)

    def seen(self, inputs: Tensor) -> Tensor:
        """The inputs as the teacher sees them."""
        return inputs if self.teacher_size is None else resized(inputs, self.teacher_size)

    def compared(self, student: Record) -> Record:
        """What the student gave, with the one of its outputs that is held against the teacher's."""
        return replace(student, output=chosen(student.output, self.subject.output))

    def loss(self, inputs: Tensor, targets: Any = None) -> Tensor:
        """The weighted sum of the losses of one batch: ().

        Args:
            inputs: (N, C, H, W).
            targets: what the label loss takes, as the samples of the batch; None for images without labels.
        """
        parts = list(self.parts(inputs, targets).values())
        return sum(parts[1:], parts[0])

    def parts(self, inputs: Tensor, targets: Any = None) -> dict[str, Tensor]:
        """Each loss of one batch times its weight, by its place in the list and its kind: `0 response`."""
        given = self.tapped(inputs)
        student = self.compared(given)
        nothing = Record(None, {})
        other = self.other(self.seen(inputs)) if self.taught else nothing
        size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
        teacher = other.map(torch.detach)
        found = {}
        for index, (settings, term) in enumerate(zip(self.losses, self.terms, strict=True)):
            lesson = Lesson(student, student if isinstance(settings, Itself) else teacher, targets, size, given.output)
            value = term(lesson)
            if self.peer is not None and isinstance(settings, Mutual | Labels):
                value = value + term(Lesson(other, student.map(torch.detach), targets, size, other.output))
            found[f"{index} {settings.kind}"] = settings.weight * value
        return found


def _wanted(terms: list[Term]) -> tuple[list[str], list[str]]:
    """The taps of the student and of the teacher that the losses look at."""
    ours: list[str] = []
    theirs: list[str] = []
    for term in terms:
        ours += [pair.student for pair in term.pairs]
        theirs += term.scores
        (ours if isinstance(term.settings, Itself) else theirs).extend(pair.teacher for pair in term.pairs)
    return [name for name in ours if name != OUTPUT], [name for name in theirs if name != OUTPUT]


def distillation(
    student: nn.Module,
    teacher: nn.Module,
    settings: Teaching,
    example: Tensor,
    subject: Subject | None = None,
) -> Distillation:
    """What a training loop makes small; used alone, in quantization-aware training, or after pruning.

    Args:
        student: the network that learns; a fake-quantized one, a smaller or a pruned one.
        teacher: a network of its own that takes the same inputs; it stays as it is, but for mutual learning.
        settings: the losses; who the teacher is was decided before.
        example: (N, C, H, W), run once through both networks, in eval mode, to see the shapes at the taps.
        subject: how outputs are decoded, for detectors; the task's own loss, by default the student's method `loss`;
            and the one of the student's outputs that counts, where it has several.

    Raises ModelError for a tap that is not there, or where the two networks' shapes do not fit; RecipeError for losses
    that the task has not.
    """
    check_two_networks(student, teacher)
    subject, own = subject or Subject(), getattr(student, "loss", None)
    if subject.label_loss is None and callable(own):
        subject = replace(subject, label_loss=own)
    made = Distillation(student, teacher, settings, subject)
    _prepare_(made, teacher, example)
    return made


def _prepare_(made: Distillation, teacher: nn.Module, example: Tensor) -> None:
    """Run both networks once, and let every loss see the shapes."""
    taps = made.other.names if isinstance(made.other, Tapped) else made.other.tapped.names
    with evaluating(made.student), evaluating(teacher), torch.no_grad():
        student = made.compared(_tried(made.tapped, example))
        other = _tried(Tapped(teacher, taps, "teacher"), made.seen(example)) if made.taught else Record(None, {})
    size = (int(example.shape[-2]), int(example.shape[-1]))
    with torch.random.fork_rng(devices=()):
        # What is trained along begins alike in every process and run: a checkpoint tells by it what it belongs to.
        torch.manual_seed(0)
        for settings, term in zip(made.losses, made.terms, strict=True):
            source = student if isinstance(settings, Itself) else other
            term.prepare_(Lesson(student, source, None, size))  # type: ignore[operator]
    made.terms.to(example.device)


def _tried(tapped: Tapped, example: Tensor) -> Record:
    try:
        return tapped(example)
    except AvcompressError:
        raise
    except Exception as error:  # whatever a user's network raises
        raise ModelError(
            f"{tapped.where}: expected to take {tuple(example.shape)}, got {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; check preprocess.size and how that network was trained"
        ) from error


def label_free(losses: tuple[Loss, ...]) -> bool:
    """Whether no loss needs labels."""
    return not needs_labels(losses)
