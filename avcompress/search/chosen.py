"""What a choice of precisions came to, and by what: a file of the run."""

from __future__ import annotations

from pydantic import Field

from avcompress.frozen import Model
from avcompress.spec import Precision


class TriedChoice(Model):
    """A choice that was measured."""

    share: float = Field(description="of the multiply-accumulates, quantized")
    loss: float = Field(description="by the sum of its groups' sensitivities; under evolution, its movement")
    predicted_ms: float = Field(description="by the sum of its layers and conversions")
    drop: float = Field(description="of the metric, measured")
    moved: float = Field(description="how far its answers are from the float network's, measured")
    ms: float = Field(description="measured, in turns with the float network")
    kept: bool = Field(description="whether it keeps the floor")


class Chosen(Model):
    """Which layers stay float, and why."""

    format: Precision | None = Field("int8", description="of what is quantized; null: nothing is")
    float_layers: tuple[str, ...] = Field(description="as patterns")
    fp32_layers: tuple[str, ...] = Field((), description="of these, what a cast to 16 bits leaves as it is")
    share: float = Field(description="of the multiply-accumulates, quantized")
    groups: int = Field(description="of layers that change precision together")
    loss: float = Field(description="predicted; under evolution, its movement")
    ms: float = Field(description="predicted")
    proven: bool = Field(description="whether no choice is better by the numbers")
    times: str = Field(description="where they come from")
    kept: bool = Field(True, description="whether the floor is kept, where there is one")
    metric: str = Field("", description="of the floor")
    before: float = Field(0.0, description="the metric of the float network on the images that chose")
    limit: float = Field(0.0, description="how far the metric may fall")
    price: float = Field(
        0.0, description="what the metric falls for a movement of 1, by all tried choices, and a standard error"
    )
    tried: tuple[TriedChoice, ...] = Field((), description="in the order in which they were measured")

    @property
    def lines(self) -> tuple[str, ...]:
        """For people."""
        of = f"chosen among {self.groups} groups of layers; times {self.times}"
        first = f"mixed: {100 * self.share:.1f} % of the MACs quantized, {of}"
        tried = tuple(
            f"mixed: {100 * each.share:.1f} % quantized, {each.ms:.4g} ms: {self.metric} falls by {each.drop:.4f}, by "
            f"{self.price * each.moved:.4f} as its movement tells; {'kept' if each.kept else 'broken'}"
            for each in self.tried
        )
        if self.kept:
            return (first, *tried)
        wish = f"mixed: expected {self.metric} to fall by at most {self.limit:.4f}, none of {len(tried)} choices does"
        return (first, *tried, f"{wish}; the nearest is taken: allow more tries, train it (qat), or lower the floor")
