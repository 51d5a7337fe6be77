"""What a recipe says of operators written as others that the engine computes faster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from avcompress.frozen import Fraction, Model
from avcompress.recipe_prune import FEWEST_IMAGES

RuleName = Literal["full_rank", "strided_conv", "hard_swish"]


class Rewrite(Model):
    """Write operators as others that compute the same, or nearly, where the network is measured to be faster so."""

    kind: Literal["rewrite"]
    rules: tuple[RuleName, ...] = Field(
        ("full_rank", "strided_conv"),
        min_length=1,
        description="full_rank: constants with as many axes as what they meet; strided_conv: pixels gathered into "
        "channels, then a convolution, as one of the image itself; hard_swish: SiLU without its exponential, which is "
        "not exact",
    )
    speedup: Annotated[float, Field(gt=1)] | None = Field(
        None,
        description="how many times as fast the network shall be by all rules together: hard_swish replaces only as "
        "many SiLUs as that takes, first those that cost least for the time; default: all of them",
    )
    layers: tuple[str, ...] = Field(("*",), description="fnmatch patterns of nodes' names: what may be rewritten")
    exclude: tuple[str, ...] = Field((), description="the same, of nodes to leave as they are")
    backend: Literal["ort", "openvino", "trt"] | None = Field(
        None,
        description="which of target.engines latency is measured on; default: the first that runs here and is no "
        "reference",
    )
    min_gain: Fraction = Field(0.02, description="share of the network's time that a rule saves at least")
    fit: bool = Field(
        True, description="after hard_swish, fit each layer to what it gave, by least squares on `images`"
    )
    images: PositiveInt = Field(64, description="training images, spread over the set, that tell what is lost")

    @model_validator(mode="after")
    def _names_each_rule_once(self) -> Rewrite:
        if len(set(self.rules)) < len(self.rules):
            raise ValueError(f"expected each rule once, got {', '.join(self.rules)}; remove one")
        return self

    @model_validator(mode="after")
    def _has_something_to_choose(self) -> Rewrite:
        if self.speedup is not None and "hard_swish" not in self.rules:
            raise ValueError(
                f"expected hard_swish among rules with speedup, got {', '.join(self.rules)}, which are exact and lose "
                "nothing by being faster; add it, or remove speedup"
            )
        return self

    @model_validator(mode="after")
    def _has_enough_images(self) -> Rewrite:
        if self.fit and "hard_swish" in self.rules and self.images < FEWEST_IMAGES:
            raise ValueError(
                f"expected {FEWEST_IMAGES} images at least with fit, got {self.images}; give more, or set fit: false"
            )
        return self
