"""The report's part on layers: plan, precision, error and time."""

from __future__ import annotations

from collections import Counter

from pydantic import Field

from avcompress.frozen import Model
from avcompress.spec import Precision
from engines.layer_map import as_planned
from validation.report.values import Measured


class LayerFacts(Model):
    """One weighted layer, in graph order."""

    name: str = Field(description="the node's name")
    op: str = Field(description="ONNX operator")
    precision: Precision = Field(description="as planned")
    reason: str = Field(description="why")
    macs: int = Field(description="multiply-accumulates of one inference")
    engines: dict[str, str] = Field(
        default_factory=dict,
        description="precision by engine, for the engines that tell it: int8, fp8, fp32, fp16, bf16 or unknown",
    )

    @property
    def mismatches(self) -> tuple[str, ...]:
        """The engines that run this layer in another precision than planned."""
        return tuple(engine for engine, told in self.engines.items() if not as_planned(self.precision, told))


class LayerCounts(Model):
    """The layers of one engine, counted; bytes are what they read and write in one run."""

    products: dict[str, dict[str, int]] = Field(description="kind -> precision -> layers that multiply by weights")
    conversions: int = Field(description="layers that only change a type or a layout, or copy")
    conversion_bytes: int | None = Field(description="null where the engine does not tell shapes")
    loose_qdq: int = Field(description="layers that do nothing but quantize or dequantize: Q/DQ that did not fuse")
    loose_qdq_bytes: int | None = Field(description="null where the engine does not tell shapes")
    horizontal: int = Field(description="products that stand for several weighted ONNX nodes")
    nameless: int = Field(description="products that name no weighted ONNX node")

    @property
    def precisions(self) -> dict[str, int]:
        """The products of all kinds by precision, most first."""
        total = Counter[str]()
        for found in self.products.values():
            total.update(found)
        return dict(total.most_common())


class DriftLayer(Model):
    """How far one layer's output is from the float network's."""

    layer: str = Field(description="the node's name")
    tensor: str = Field(description="its output")
    sqnr_db: Measured = Field(description="signal to noise, dB; null where both are equal")
    cosine: Measured = Field(description="of the angle between both, -1 to 1")
    max_error: Measured = Field(description="the largest absolute difference, in the tensor's own unit")
    amplitude: Measured = Field(description="the largest absolute value in the float network")


class DriftFacts(Model):
    """The compressed network beside the float network, layer by layer."""

    bound_db: float | None = Field(None, description="the contract's least signal to noise")
    first_beyond: str | None = Field(None, description="the first layer, in graph order, that is below the bound")
    layers: tuple[DriftLayer, ...] = Field(description="in graph order")


class LayerTime(Model):
    """One layer as an engine runs it."""

    name: str = Field(description="the engine's own name for it")
    nodes: tuple[str, ...] = Field((), description="the network's nodes that it stands for, where they are known")
    ms: float = Field(description="median time in one run")
    precision: str = Field("", description="as the engine tells it; empty where it does not")
