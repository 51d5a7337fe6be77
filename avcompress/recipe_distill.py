"""What a recipe says of distillation: who teaches, and by which losses; a closed union of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag

from avcompress.frozen import Fraction, Model
from avcompress.recipe_network import OnnxModel, SavedModel, TorchModel, network_kind
from avcompress.recipe_training import LabelLoss, Training


class Tap(Model):
    """The same place in two networks that name it differently."""

    student: str = Field(description="a layer's or tensor's name in the student, or an fnmatch pattern of several")
    teacher: str = Field(description="in the teacher; of several, the first belongs to the student's first")


Taps = tuple[str | Tap, ...]
Places = Annotated[Taps, Field(min_length=1)]
_TAPS = "names or fnmatch patterns of layers or tensors; {student: ..., teacher: ...} where the two networks' differ"


class LossSettings(Model):
    """What every loss has."""

    weight: PositiveFloat = Field(1.0, description="factor of this loss in the sum")


class Labels(LossSettings):
    """The task's own loss on the labels, beside the teacher's; needs labelled samples."""

    kind: Literal["labels"]


class Soft(LossSettings):
    """The teacher's class scores, softened by a temperature, as labels."""

    kind: Literal["soft"]
    temperature: PositiveFloat = Field(4.0, description="the scores are divided by it: higher shows more of the others")
    alpha: Fraction = Field(0.0, description="share of the labels' own loss; above 0 it needs labelled samples")
    classes: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="softmax: one class a place; sigmoid: each class on its own, as detectors have it"
    )
    axis: int = Field(1, description="of the classes in the output")


class Features(LossSettings):
    """Feature maps like the teacher's: mean squared difference, through a 1x1 convolution where channels differ."""

    kind: Literal["features"]
    taps: Places = Field(description=_TAPS)
    standardize: bool = Field(
        True, description="compare them by channel at zero mean and unit variance, so that the scale is free"
    )


class Attention(LossSettings):
    """Where the teacher looks: the normalized map of its channels' energy; any number of channels."""

    kind: Literal["attention"]
    taps: Places = Field(description=_TAPS)


class ChannelWise(LossSettings):
    """Each channel as a distribution over the picture; for segmentation."""

    kind: Literal["cwd"]
    taps: Taps = Field((), description=f"{_TAPS}; default: the networks' outputs")
    temperature: PositiveFloat = Field(4.0, description="higher attends to a wider region of each channel")


class Masked(LossSettings):
    """The teacher's features are generated from the student's, a random share of whose pixels is masked."""

    kind: Literal["mgd"]
    taps: Places = Field(description=_TAPS)
    mask: Annotated[float, Field(ge=0, lt=1)] = Field(0.65, description="share of pixels that are masked")


class Localisation(LossSettings):
    """Boxes like the teacher's, weighted by its confidence."""

    kind: Literal["localisation"]
    form: Literal["giou", "l1", "distribution"] = Field(
        "giou",
        description="giou or l1 of the output's boxes; distribution: of the bins that each side is predicted by",
    )
    taps: Taps = Field((), description=f"distribution only, of the tensors (N,4*bins,...): {_TAPS}")
    scores: tuple[str, ...] = Field(
        (),
        description="distribution only: names or patterns of the teacher's class logits of the same cells, in the same "
        "order, by which cells count; default: all alike",
    )
    bins: PositiveInt = Field(16, description="distribution only: bins a side")
    temperature: PositiveFloat = Field(10.0, description="distribution only: the bins' logits are divided by it")


class Response(LossSettings):
    """A detector's output like the teacher's: scores everywhere, boxes and classes weighted by its confidence."""

    kind: Literal["response"]
    temperature: PositiveFloat = Field(1.0, description="the class logits are divided by it")
    boxes: Annotated[float, Field(ge=0)] = Field(1.0, description="factor of the boxes' part, 1 - GIoU")


class Itself(LossSettings):
    """Deep layers of the student teach its shallow ones; needs no teacher."""

    kind: Literal["self"]
    deep: str = Field(description="name or pattern of the one layer that teaches")
    shallow: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="names or fnmatch patterns of those that learn from it"
    )
    by: Literal["attention", "features"] = Field(
        "attention", description="attention: where it looks; features: what it sees, through a 1x1 convolution"
    )


class Mutual(LossSettings):
    """Two students learn from each other while both train: the teacher is the other one."""

    kind: Literal["mutual"]
    by: Annotated[Soft | Response, Field(discriminator="kind")] = Field(
        Soft(kind="soft", temperature=1.0), description="what they compare: a `soft` or a `response` loss"
    )


Loss = Annotated[
    Labels | Soft | Features | Attention | ChannelWise | Masked | Localisation | Response | Itself | Mutual,
    Field(discriminator="kind"),
]


def needs_labels(losses: Iterable[Loss]) -> bool:
    """Whether one of the losses learns from labels."""
    soft = [loss.by if isinstance(loss, Mutual) else loss for loss in losses]
    return any(isinstance(loss, Labels) or getattr(loss, "alpha", 0.0) > 0 for loss in soft)


def _teacher_kind(value: Any) -> str:
    return "self" if isinstance(value, str) else network_kind(value)


Teacher = Annotated[
    Annotated[Literal["self"], Tag("self")]
    | Annotated[OnnxModel, Tag("file")]
    | Annotated[SavedModel, Tag("saved")]
    | Annotated[TorchModel, Tag("module")],
    Discriminator(_teacher_kind),
]


class Teaching(Model):
    """Who teaches, and what is learned from it."""

    teacher: Teacher = Field(
        "self",
        description="an ONNX file or a torch module, as `model` names one; "
        "self: the network itself, as it was before pruning or quantization",
    )
    teacher_size: tuple[PositiveInt, PositiveInt] | None = Field(
        None,
        description="height and width that the teacher sees the pictures at, enlarged or shrunk from the network's "
        "input: a teacher sees best at the size that it was trained at. Default: as the network",
    )
    losses: Annotated[tuple[Loss, ...], Field(min_length=1)] = Field(
        description="what is made small: the weighted sum of these"
    )


class Distill(Training, Teaching, LabelLoss):
    """Train the float network by a teacher; labels are needed only by the losses that say so.

    `loss` is that of `labels` and `alpha`.
    """

    kind: Literal["distill"]


class Generation(Model):
    """Pictures made from a network's statistics, where no data is at hand."""

    count: PositiveInt = Field(64, description="pictures to make")
    batch_size: PositiveInt = Field(
        8, description="pictures made together: their statistics are held against the network's"
    )
    steps: PositiveInt = Field(500, description="of optimization, a batch")
    learning_rate: PositiveFloat = Field(0.1, description="of the pixels, in standard deviations of the input")
    smoothness: Annotated[float, Field(ge=0)] = Field(0.1, description="factor of the difference between neighbours")
    seed: NonNegativeInt = Field(0, description="of the noise they start from")
