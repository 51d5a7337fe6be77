"""What a recipe says of quantization-aware training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from avcompress.recipe_distill import Loss, Teacher
from avcompress.recipe_training import Augment, LabelLoss, Training


class Qat(Training, LabelLoss):
    """Train the quantized network, its scales too, after `ptq`: on `data.train`, or else on the calibration images."""

    kind: Literal["qat"]
    method: Literal["lsq", "lsq_plus", "pact", "ste"] = Field(
        "lsq",
        description="how activation scales learn. lsq: from rounding and clipping; lsq_plus: zero points too, after "
        "`ptq` with `activations: asymmetric`; pact: from clipping alone; ste: they stay as they are",
    )
    weight_scales: Literal["learned", "recomputed", "fixed"] = Field(
        "fixed",
        description="fixed: those of `ptq`; learned: as LSQ has it, except with ste; recomputed: they follow the "
        "largest weight of each channel",
    )
    scales: tuple[str, ...] = Field(
        ("*",), description="fnmatch patterns of the quantized tensors whose scales may change; tied ones go together"
    )
    learning_rate: PositiveFloat = Field(
        3e-3, description="the highest one of the schedule, of weights and biases: in steps of their INT8 grid"
    )
    rates: Literal["absolute"] = Field("absolute", description="rates are of steps: they suit every layer as they are")
    scale_rate: PositiveFloat = Field(3e-4, description="the same of scales: in shares of themselves")
    pact_decay: Annotated[float, Field(ge=0)] = Field(
        1e-4, description="of pact: the factor of the sum of squared clips, each in parts of what it was"
    )
    losses: tuple[Loss, ...] = Field(
        (),
        description="what is made small, as of `distill`. Default: `response` to the teacher of a detector, "
        "`soft` with temperature 1 of a segmenter; neither needs labels",
    )
    teacher: Teacher = Field("self", description="as of `distill`; self: the float network")
    batch_size: PositiveInt = Field(8, description="images a step, those of all processes together")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="of weights; decoupled for AdamW, in the gradient for SGD"
    )
    augment: Augment = Field(Augment(), description="what chance does to a training picture")

    @property
    def learns_activations(self) -> bool:
        """Whether the scales of activations change."""
        return self.method != "ste"

    @property
    def learns_weights(self) -> bool:
        """Whether the scales of weights are trained themselves."""
        return self.weight_scales == "learned" and self.method != "ste"
