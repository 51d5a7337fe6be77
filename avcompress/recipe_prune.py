"""What a recipe says of making a float network smaller: fewer channels, or zeros in its weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from avcompress.frozen import Fraction, Model
from avcompress.recipe_distill import Distill
from avcompress.recipe_training import LabelLoss, Train

Share = Annotated[float, Field(gt=0, lt=1)]
FEWEST_IMAGES = 4
"""That layers are fitted to: every fourth is held out."""


class ScoreFile(Model):
    """How important channels are, as the user says in a file."""

    file: str = Field(description="JSON: layer -> a number for each of its output channels, 0 or more")


class ScoreFunction(Model):
    """How important channels are, by the user's own code."""

    function: str = Field(
        pattern=r"^[\w.]+:\w+$",
        description="module:function of (network, coupling) that returns the numbers by a group's name",
    )
    import_from: str | None = Field(None, description="folder to import it from, relative to the recipe")


Criterion = Literal["l1", "l2", "bn_scale", "gradient", "taylor", "fisher", "fpgm", "activation", "random"]


def _importance_kind(value: Any) -> str:
    keys: dict[str, Any] = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "named" if isinstance(value, str) else "scores" if "file" in keys else "code"


Importance = Annotated[
    Annotated[Criterion, Tag("named")] | Annotated[ScoreFile, Tag("scores")] | Annotated[ScoreFunction, Tag("code")],
    Discriminator(_importance_kind),
]


def _align_kind(value: Any) -> str:
    return "by_pattern" if isinstance(value, dict) else "alone"


Align = Annotated[
    Annotated[PositiveInt, Tag("alone")] | Annotated[dict[str, PositiveInt], Tag("by_pattern")],
    Discriminator(_align_kind),
]
Recovery = Annotated[Train | Distill, Field(discriminator="kind")]


class Choosing(LabelLoss):
    """How it is measured what a network can do without, and where."""

    loss: str = Field(
        "response",
        pattern=r"^(response|own|yolox|ltrb|cross_entropy|[\w.]+:\w+)$",
        description="what gradients are of: response: the outputs themselves, without labels; own: the torch module's "
        "`targets` and `loss`; or one of those of `train`",
    )
    layers: tuple[str, ...] = Field(("*",), description="fnmatch patterns of nodes' names: the layers concerned")
    exclude: tuple[str, ...] = Field((), description="the same, of layers to leave as they are")
    images: PositiveInt = Field(64, description="training images, spread over the set, that importance is measured on")
    seed: NonNegativeInt = Field(0, description="of what is random in it")


class Prune(Choosing):
    """Remove channels: the network becomes narrower, and stays dense."""

    kind: Literal["prune"]
    importance: Importance = Field(
        "fisher",
        description="taylor, fisher: what changes without the channel, to first or second order; l1, l2: of weights; "
        "bn_scale; gradient: of weights; activation: how active it is; fpgm: how different from the others; random; "
        "{file: FILE} or {function: module:function}",
    )
    fit: bool = Field(
        True,
        description="fit what is left of each layer to what the whole one gave, by least squares on `images`; not with "
        "schedule: during_training",
    )
    scope: Literal["global", "local"] = Field(
        "global", description="global: the least important channels, wherever they are; local: the same share of all"
    )
    ratio: Share | None = Field(
        None, description="share of the channels to remove. This, `speedup` or `deadline_ms` is required"
    )
    speedup: Annotated[float, Field(gt=1)] | None = Field(
        None, description="how many times as fast the network shall be, by latency measured on `backend`"
    )
    deadline_ms: PositiveFloat | None = Field(
        None, description="what one image may take the network, without what comes before and after it, on `backend`"
    )
    backend: Literal["ort", "openvino", "trt"] | None = Field(
        None,
        description="which of target.engines latency is measured on; default: the first that runs here and is no "
        "reference",
    )
    align: Align | None = Field(
        None,
        description="layers keep a multiple of so many channels; default: what the target's kernels want, 8 on CPUs, "
        "32 in INT8 and 8 in FP16 on GPUs, unless the target's profile says otherwise. Or by fnmatch patterns of "
        "nodes' names, the first that fits counts: {/head*: 16, '*': 8}; layers that none fits have the default",
    )
    floor: Fraction = Field(0.1, description="share of its channels that every layer keeps at least")
    schedule: Literal["one_shot", "iterative", "during_training"] = Field(
        "one_shot",
        description="iterative: a part, what is left fitted, `recover` if there is any, the next part; "
        "during_training: channels fade while `recover` trains, and are removed at its end",
    )
    rounds: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="of iterative: how many parts; of during_training: in how many steps channels fade. Default: 4",
    )
    recover: Recovery | None = Field(
        None, description="a `train` or `distill` stage: what trains in an iterative or during_training schedule"
    )

    @model_validator(mode="after")
    def _has_one_goal(self) -> Prune:
        given = [name for name in ("ratio", "speedup", "deadline_ms") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise ValueError(f"expected one of ratio, speedup and deadline_ms, got {got}; give one")
        if self.backend is not None and self.ratio is not None:
            raise ValueError(f"expected no backend beside ratio, got {self.backend}; remove it, or give speedup")
        return self

    @field_validator("align", mode="after")
    @classmethod
    def _reaches_every_pattern(cls, align: int | dict[str, int] | None) -> int | dict[str, int] | None:
        if align == {}:
            raise ValueError("expected patterns with their widths, got none; add one, or leave align out")
        behind = list(align)[list(align).index("*") + 1 :] if isinstance(align, dict) and "*" in align else []
        if behind:
            raise ValueError(
                f"expected '*' behind all other patterns, got it before {behind[0]!r}, which would never count: the "
                "first that fits does; move '*' to the end"
            )
        return align

    @model_validator(mode="after")
    def _has_enough(self) -> Prune:
        left = 1 - (self.ratio or 0)
        if self.floor > left + 1e-9:
            raise ValueError(
                f"expected a floor of at most {left:g}, which the ratio of {self.ratio:g} leaves, got {self.floor:g}; "
                "lower one of the two"
            )
        if self.fit and self.schedule != "during_training" and self.images < FEWEST_IMAGES:
            raise ValueError(
                f"expected {FEWEST_IMAGES} images at least with fit, got {self.images}; give more, or set fit: false"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_schedule(self) -> Prune:
        if self.schedule == "one_shot":
            extra = [name for name in ("rounds", "recover") if getattr(self, name) is not None]
            if extra:
                raise ValueError(
                    f"expected no {extra[0]} with schedule: one_shot, got one; remove it and add a stage behind this "
                    "one, or set schedule: iterative"
                )
        elif self.recover is None and (self.schedule == "during_training" or not self.fit):
            raise ValueError(f"expected `recover` for schedule: {self.schedule}, got nothing; add it")
        if self.schedule == "during_training" and self.ratio is None:
            raise ValueError("expected ratio with schedule: during_training, got a latency; set schedule: iterative")
        return self

    @property
    def alignments(self) -> tuple[int, tuple[tuple[str, int], ...]]:
        """The alignment of layers that have none of their own, and those that have, by pattern."""
        if not isinstance(self.align, dict):
            return self.align or 1, ()
        return self.align.get("*", 1), tuple(each for each in self.align.items() if each[0] != "*")

    @property
    def parts(self) -> int:
        """In how many parts channels go."""
        return 1 if self.schedule == "one_shot" else self.rounds or 4


class Sparsify(Choosing):
    """Set weights to zero for good: later training, quantization and the exported network keep them."""

    kind: Literal["sparsify"]
    pattern: Literal["unstructured", "2:4"] = Field(
        "unstructured",
        description="2:4: two of every four weights along the input, for the sparse units of NVIDIA GPUs",
    )
    sparsity: Share | None = Field(None, description="share of the weights that become zero; of 2:4 it is a half")
    importance: Literal["magnitude", "gradient"] = Field(
        "magnitude",
        description="which weights go first: the smallest, or those with the smallest weight times gradient",
    )
    scope: Literal["global", "local"] = Field(
        "local", description="local: the same share of every layer; global: the least important weights of all"
    )
    schedule: Literal["one_shot", "gradual"] = Field(
        "one_shot", description="gradual: zeros become more by a cubic schedule while `recover` trains"
    )
    recover: Recovery | None = Field(
        None, description="a `train` or `distill` stage: what trains in a gradual schedule"
    )

    @model_validator(mode="after")
    def _has_a_sparsity(self) -> Sparsify:
        if self.pattern == "2:4" and self.sparsity is not None:
            raise ValueError(f"expected no sparsity with pattern: 2:4, which is a half, got {self.sparsity}; remove it")
        if self.pattern == "2:4" and (self.scope, self.schedule) != ("local", "one_shot"):
            raise ValueError(
                "expected scope: local and schedule: one_shot with pattern: 2:4, got "
                f"{self.scope} and {self.schedule}; remove them"
            )
        if self.pattern == "unstructured" and self.sparsity is None:
            raise ValueError("expected sparsity with pattern: unstructured, got nothing; add it")
        return self

    @model_validator(mode="after")
    def _fits_its_schedule(self) -> Sparsify:
        if (self.schedule == "gradual") != (self.recover is not None):
            raise ValueError(
                f"expected `recover` with schedule: gradual and with no other, got {self.schedule} "
                f"{'without' if self.recover is None else 'with'} it; mend one of them"
            )
        return self

    @property
    def share(self) -> float:
        """The share of the weights that become zero."""
        return 0.5 if self.sparsity is None else self.sparsity
