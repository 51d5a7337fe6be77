"""What a recipe says of low-rank factorization."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveInt, Tag, model_validator

from avcompress.frozen import Fraction, Model

Method = Literal["svd", "spatial_svd", "tucker2", "cp"]


class Energy(Model):
    """The smallest rank that keeps enough."""

    energy: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of the variance of a layer's output, or of its weights' squares, that is kept"
    )


class Speedup(Model):
    """Methods and ranks, layer by layer, so that the network becomes faster with the least error."""

    speedup: Annotated[float, Field(gt=1)] = Field(description="of the whole network, measured: 1.3 times as fast")
    max_error: Fraction = Field(0.3, description="share of the variance of a layer's output that may be lost")


def _rank_kind(value: Any) -> str:
    if isinstance(value, str | Energy | Speedup):
        return {str: "evbmf", Energy: "energy", Speedup: "speedup"}[type(value)]
    if isinstance(value, dict):
        return "speedup" if "speedup" in value else "energy"
    return "pair" if isinstance(value, list | tuple) else "number"


Pair = tuple[PositiveInt, PositiveInt]
Rank = Annotated[
    Annotated[PositiveInt, Tag("number")]
    | Annotated[Pair, Tag("pair")]
    | Annotated[Literal["evbmf"], Tag("evbmf")]
    | Annotated[Energy, Tag("energy")]
    | Annotated[Speedup, Tag("speedup")],
    Discriminator(_rank_kind),
]


class Factorize(Model):
    """Take layers apart into products of smaller ones, where that is measured to be faster."""

    kind: Literal["factorize"]
    method: Literal["auto"] | Method = Field(
        "auto",
        description="svd: to fewer channels, then 1x1; spatial_svd: kx1, then 1xk; tucker2: 1x1, kxk of fewer "
        "channels, 1x1; cp: 1x1, depthwise kx1 and 1xk, 1x1; auto: whichever is best",
    )
    rank: Rank = Field(
        Energy(energy=0.9),
        description="{energy: 0.9}; {speedup: 1.3}: by measured latency; evbmf: what is no noise in the weights; "
        "or a number, of tucker2 two: of inputs and outputs",
    )
    layers: tuple[str, ...] = Field(
        ("*",), description="fnmatch patterns on a node's name, its weight's or output's name"
    )
    exclude: tuple[str, ...] = Field((), description="the same, of layers to leave as they are")
    align: PositiveInt = Field(8, description="ranks are multiples of it, as the target computes channels: 8, 16, 32")
    fit: Literal["output", "weight"] = Field(
        "output", description="what is approximated: a layer's output on the calibration images, or its weights"
    )
    backend: Literal["openvino", "ort", "trt"] | None = Field(
        None,
        description="which of target.engines latency is measured on; default: the first that runs here and is no "
        "reference",
    )
    min_gain: Fraction = Field(0.05, description="share of a layer's time that its factors save at least")

    @model_validator(mode="after")
    def _has_ranks_of_its_method(self) -> Factorize:
        if isinstance(self.rank, tuple) and self.method != "tucker2":
            raise ValueError(
                f"expected two ranks of tucker2 only, got {list(self.rank)} of {self.method}; give one rank"
            )
        if isinstance(self.rank, int) and self.method == "auto":
            raise ValueError(f"expected a method for the rank {self.rank}, got auto; name one, or give {{energy: ...}}")
        return self
