"""What an update of a compressed network says: new images, what it learns from them, and what it must not lose."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from avcompress.contract import AccuracyTerm
from avcompress.frozen import Model
from avcompress.recipe import DataSource
from avcompress.recipe_distill import Loss, Mutual, Teacher
from avcompress.recipe_qat import Qat


class NewData(Model):
    """The new images; all that is old is in the recipe of the run that is updated."""

    train: DataSource = Field(description="the new images; their labels are used where a loss needs them")
    validation: DataSource | None = Field(None, description="labelled ones that the gain is measured on")
    replay: DataSource | None = Field(
        None,
        description="old images to learn from again. Default: what the run trained on, or else calibrated on, and the "
        "new images of earlier updates",
    )


class Replay(Model):
    """What is shown again, so that it is not forgotten."""

    share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="of each batch, old images; it must give whole images"
    )
    losses: tuple[Loss, ...] = Field(
        (),
        description="of old images, between the network and the version before the update. Default: `response` of a "
        "detector, `soft` with temperature 1 of a segmenter; neither needs labels",
    )

    @property
    def fraction(self) -> Fraction:
        """The share as of whole images: 0.333 is a third."""
        return Fraction(self.share).limit_denominator(_LARGEST)


_LARGEST = 64
"""Of the batches that a share is looked for in."""


class Learning(Qat):
    """The keys of the stage `qat`, by which an update trains; `losses` and `teacher` are of the new images."""

    kind: Literal["qat"] = Field("qat", description="may be left out")
    losses: tuple[Loss, ...] = Field(
        (),
        description="of new images. Default: `response` to the teacher of a detector, `soft` with temperature 1 of a "
        "segmenter, and beside it `labels` where the new images have some that the task can learn from",
    )
    teacher: Teacher = Field(
        "self", description="of new images, as of `distill`; self: the float network of the run that is updated"
    )

    @model_validator(mode="after")
    def _is_judged_at_its_end(self) -> Learning:
        if self.validate_every is not None:
            raise ValueError(
                "expected no validate_every in an update, which is judged on old and new images at its end, got "
                f"{self.validate_every}; leave it out"
            )
        return self


class Update(Model):
    """One update: the network, its old data and its contract are those of the run that is updated."""

    name: str = Field(
        pattern=r"^[\w.-]+$", description="what the report calls the new images; no two updates of a run share one"
    )
    data: NewData = Field(description="images and labels")
    replay: Replay = Field(Replay(), description="what of the old is shown again")
    qat: Learning = Field(description="how it is trained")
    range_images: PositiveInt = Field(
        128, description="new images that ranges are re-estimated on, spread over them, beside the calibration images"
    )
    forgetting: Annotated[tuple[AccuracyTerm, ...], Field(min_length=1)] = Field(
        description="how much worse than the version before it may be on old validation images; one line is of the "
        "contract's first metric"
    )
    gain: tuple[AccuracyTerm, ...] = Field(
        (), description="what it must reach, gain or keep on the new validation images, beside the version before"
    )

    @model_validator(mode="after")
    def _bounds_a_loss(self) -> Update:
        for index, term in enumerate(self.forgetting):
            if any(limit is not None for limit in (term.min, term.max, term.min_gain)):
                raise ValueError(
                    f"expected max_drop or max_drop_relative in forgetting[{index}], got another limit; "
                    "the run's contract has those of the network itself"
                )
        if self.gain and self.data.validation is None:
            raise ValueError("expected data.validation for `gain`, got none; add labelled new images, or leave it out")
        return self

    @model_validator(mode="after")
    def _has_one_student(self) -> Update:
        for key, losses in (("replay", self.replay.losses), ("qat", self.qat.losses)):
            if any(isinstance(loss, Mutual) for loss in losses):
                raise ValueError(f"expected no `mutual` in {key}.losses, which trains a second network; leave it out")
        return self

    @model_validator(mode="after")
    def _replays_whole_images(self) -> Update:
        batch, parts, share = self.qat.batch_size, self.qat.accumulate, self.replay.fraction
        if share == 1 or batch // parts % share.denominator:
            of = f"batch_size {batch}" + (f" in {parts} parts" if parts > 1 else "")
            raise ValueError(
                f"expected a replay.share that gives whole images of {of}, and leaves a new one, got "
                f"{self.replay.share:g}; mend one of them"
            )
        return self
