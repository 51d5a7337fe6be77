"""The error analysis: where a quantized network loses, by layer. Its JSON layout is versioned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from avcompress.frozen import Model
from validation.report import Measured


class LayerError(Model):
    """One quantized layer, in graph order; dB are signal to noise, null is without noise or not measured."""

    name: str = Field(description="the node's name")
    op: str = Field(description="ONNX operator")
    macs: int = Field(description="multiply-accumulates of one inference")
    own_db: Measured = Field(description="at its own output, given float inputs: what its quantization alone adds")
    weights_db: Measured = Field(description="the same, its weights alone quantized")
    activations_db: Measured = Field(description="the same, its inputs alone quantized")
    depth_db: Measured = Field(description="at its own output in the whole quantized network: growth through depth")
    alone_db: Measured = Field(None, description="at the network's output, this layer alone quantized")
    without_db: Measured = Field(None, description="at the network's output, all layers but this one quantized")
    gain: Measured = Field(None, description="what the metric gains when this layer alone becomes float")


class Split(Model):
    """The whole network with only a part of its quantization."""

    part: Literal["all", "weights", "activations", "none"] = Field(description="what is quantized")
    output_db: Measured = Field(description="signal to noise at the network's output")
    metric: Measured = Field(None, description="the metric; null where the time budget ended before")


class ErrorAnalysis(Model):
    """Where a quantized network loses."""

    schema_version: Literal[1] = Field(1, description="version of this layout; a change that breaks readers raises it")
    recipe: str = Field(description="the recipe's name")
    metric: str = Field(description="what is attributed, as contracts name it")
    images: int = Field(description="calibration images that the dB are measured on")
    sweep_images: int = Field(description="of these, images for the columns `alone_db` and `without_db`")
    budget_s: float = Field(description="the time that the analysis was given")
    seconds: float = Field(description="the time that it took")
    splits: tuple[Split, ...] = Field(description="all, weights, activations, none quantized")
    layers: tuple[LayerError, ...] = Field(description="every quantized weighted layer")

    @property
    def worst(self) -> tuple[LayerError, ...]:
        """The layers, those first that cost most: by metric where it was measured, then by the network's output."""

        def cost(layer: LayerError) -> tuple[bool, float, float]:
            at_output = layer.alone_db if layer.alone_db is not None else layer.own_db
            return (layer.gain is None, -(layer.gain or 0.0), float("inf") if at_output is None else at_output)

        return tuple(sorted(self.layers, key=cost))
