"""One quantized network, written for the TensorRT at hand: the dialects, their settings, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from typing_extensions import assert_never

from avcompress.spec import TensorRange

if TYPE_CHECKING:  # whoever only asks for a dialect's name needs no onnx
    import onnx

    from engines.capabilities import Target

Dialect = Literal["strong", "weak", "dla-implicit"]
"""How a quantized network is told to TensorRT.

strong: 10.x, 11.x and RTX: every type is in the graph, no flags.
weak: 8.5 and 8.6: FP32 with Q/DQ, opset 17; flags let the builder choose FP16.
dla-implicit: DLA up to TensorRT 10.7: no Q/DQ, a calibration cache and a precision for each layer.
"""
FloatType = Literal["fp32", "fp16", "bf16"]
Flag = Literal["fp16", "int8", "bf16", "obey"]
"""Builder flags: the precisions that it may choose, and OBEY_PRECISION_CONSTRAINTS."""

CACHE, PRECISIONS = "calibration.cache", "precisions.json"
LAYER_PRECISIONS, LAYER_OUTPUT_TYPES = "layer_precisions.txt", "layer_output_types.txt"


@dataclass(frozen=True, kw_only=True)
class DialectSettings:
    """What a network is expressed for.

    Attributes:
        dialect: which one.
        newest_opset: that the target's parser reads.
        float_type: of what is not quantized.
        keep_float: nodes that stay FP32 (on DLA, which has no FP32: FP16), and why.
        ranges: what calibration saw of the tensors, by name in the float network; per tensor.
        gpu_fallback: dla-implicit: layers that DLA cannot take are refused, or listed for the GPU.
        tensorrt: dla-implicit: the TensorRT that reads the cache; one of another version refuses it.
        target: strong: whose limits count, by the names of `avcompress lint`.
    """

    dialect: Dialect
    newest_opset: int
    float_type: FloatType = "fp16"
    keep_float: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, TensorRange] = field(default_factory=dict)
    gpu_fallback: Literal["refuse", "list"] = "refuse"
    tensorrt: str = "8.6.0"
    target: Target = "tensorrt-11"


@dataclass(frozen=True)
class Expressed:
    """A network in a dialect.

    Attributes:
        model: for the parser.
        dialect: which one.
        files: what the builder needs beside it, by name.
        flags: of the builder.
        precisions: by node name: of every weighted node what it shall compute in; in the dialects with flags also the
            other nodes that must not be in the type that the builder would choose.
        notes: what was changed, and what stays float against expectation, for people.
    """

    model: onnx.ModelProto
    dialect: Dialect
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    flags: tuple[Flag, ...] = ()
    precisions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()


def express(model: onnx.ModelProto, settings: DialectSettings) -> Expressed:
    """Write a quantized network in a dialect; equal inputs give equal bytes.

    Args:
        model: with explicit Q/DQ, of this suite or another tool; float networks go through, too.
        settings: the dialect, and what it needs to know.

    Raises ModelError in one line for what the target would refuse or silently compute otherwise.
    """
    match settings.dialect:
        case "strong":
            from engines.dialects.strong import express_strong

            return express_strong(model, settings)
        case "weak":
            from engines.dialects.weak import express_weak

            return express_weak(model, settings)
        case "dla-implicit":
            from engines.dialects.dla_implicit import express_dla_implicit

            return express_dla_implicit(model, settings)
        case _:
            assert_never(settings.dialect)
