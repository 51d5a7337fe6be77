"""The report's part on what made the float network smaller: widths, importance, and latency as it was to be."""

from __future__ import annotations

from pydantic import Field

from avcompress.frozen import Model
from validation.report.layers import LayerTime


class LayerWidth(Model):
    """One weighted layer of the float network, and what has become of it."""

    name: str = Field(description="the node's name")
    op: str = Field(description="ONNX operator")
    before: int = Field(description="output channels in the float network")
    after: int = Field(description="output channels in the smaller one")
    parts: int = Field(1, description="layers that it is now: several where it was factorized")
    macs_before: int = Field(description="multiply-accumulates of one inference")
    macs_after: int = Field(description="the same in the smaller network, of all its parts")
    zeros: float = Field(description="share of its weights that are 0 in the smaller network, 0-1")
    fixed: str = Field("", description="why none of its channels can be removed; empty where they can")


class GroupImportance(Model):
    """Channels that go together, by importance."""

    layer: str = Field(description="the first layer that computes them")
    channels: int = Field(description="how many there were")
    kept: int = Field(description="how many are left, the most important ones")
    scores: tuple[float, ...] = Field(description="their importance, falling; of more than 64 so many, evenly spread")


class LatencyTry(Model):
    """A choice of widths that was measured; the ones before it had their part in what was predicted of it."""

    predicted_ms: float = Field(description="what it was predicted to take before it was measured")
    measured_ms: float = Field(description="what it takes, measured in turns with the network before")


class LatencyGoal(Model):
    """A latency that channels were removed for: of one image in an engine of the float network, and nothing around."""

    engine: str = Field(description="what was measured on")
    goal_ms: float = Field(description="what the network was to take")
    before_ms: float = Field(description="what it took")
    predicted_ms: float = Field(description="what the chosen widths were predicted to take before they were measured")
    measured_ms: float = Field(description="what they take, measured in turns with the network before")
    tries: tuple[LatencyTry, ...] = Field((), description="every choice that was measured, in that order")


class Pruning(Model):
    """One step that removed channels."""

    step: str = Field(description="what the step does, as in `stages`")
    importance: str = Field(description="what importance was measured by")
    groups: tuple[GroupImportance, ...] = Field(description="channels that could go, in the order of the network")
    fixed: dict[str, str] = Field(default_factory=dict, description="layer -> why none of its channels can be removed")
    goal: LatencyGoal | None = Field(None, description="null where a share of channels was to go")


class Factor(Model):
    """A layer that was taken apart into a product of smaller ones."""

    layer: str = Field(description="the node's name; its parts are NAME/first ... NAME/last")
    method: str = Field(description="svd, spatial_svd, tucker2 or cp")
    ranks: tuple[int, ...] = Field(description="of the product; two of tucker2, of inputs and outputs")
    macs_before: int = Field(description="multiply-accumulates of the layer")
    macs_after: int = Field(description="of its parts")
    error: float = Field(description="share of the variance of its output that was lost, before any training")
    ms_before: float = Field(description="time of the layer alone")
    ms_after: float = Field(description="time of its parts alone")


class TimedStep(Model):
    """A step after which the network is measured to be faster."""

    step: str = Field(description="what the step does, as in `stages`")
    engine: str = Field(description="what latency was measured on")
    before_ms: float = Field(description="what the network took, without pre- and post-processing")
    after_ms: float = Field(description="what it takes, measured in turns with the one before")


class Factorization(TimedStep):
    """One step that took layers apart."""

    layers: tuple[Factor, ...] = Field(description="those that were taken apart, in graph order")
    left: dict[str, str] = Field(default_factory=dict, description="layer -> why it stays as it is")


class RewritingRule(Model):
    """What one rule did to operators."""

    rule: str = Field(description="its name in recipes")
    nodes: tuple[str, ...] = Field(description="those that it rewrites; none where it finds nothing to do")
    before_ms: float = Field(description="what the network took without it; 0 where it finds nothing to do")
    after_ms: float = Field(description="what it takes with it, measured in turns with the one before")
    kept: bool = Field(description="whether the network goes on with it")


class Rewriting(TimedStep):
    """One step that wrote operators as others."""

    rules: tuple[RewritingRule, ...] = Field(description="in the order in which they were tried")


class SmallerFacts(Model):
    """The network that quantization was given beside the float network that drops are measured against."""

    macs_before: int = Field(description="multiply-accumulates of one inference of the float network")
    macs_after: int = Field(description="of the smaller one")
    parameters_before: int = Field(description="numbers in the float network's constants, normalization folded in")
    parameters_after: int = Field(description="in the smaller one's")
    layers: tuple[LayerWidth, ...] = Field(description="every weighted layer, in graph order")
    prunings: tuple[Pruning, ...] = Field((), description="the steps that removed channels")
    factorizations: tuple[Factorization, ...] = Field((), description="the steps that took layers apart")
    rewritings: tuple[Rewriting, ...] = Field((), description="the steps that wrote operators as others")
    layer_times: dict[str, tuple[LayerTime, ...]] = Field(
        default_factory=dict,
        description="by engine: the time of every layer of the float network, to go beside those of the compressed one",
    )
