"""Whether OpenVINO's INT8 kernels compute rightly on this CPU: tried, once a process.

x86 CPUs without VNNI multiply bytes by VPMADDUBSW, which adds two products in 16 bits: 2 * 255 * 127 = 64,770 saturates
to 32,767. OpenVINO 2025.0 to 2026.4 uses it all the same, and YOLOX-nano falls from AP .282 to .009. On such a CPU the
network is computed in float, with every value rounded to its INT8 grid as before: right, and no faster than FP32.
Weights that use half of their range, -64 .. 64, keep every sum of two products in 16 bits: a network of such weights
alone is computed in integers there, too.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, VPMADDUBSW.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from avcompress.spec import EngineError
from engines.openvino_dialect import with_fake_quantize
from engines.session import one_line

FULL, HALF = 127, 64
"""Magnitudes of weights: whatever INT8 holds, and 2 * 255 * 64 = 32,640 in 16 bits."""
_CHANNELS = 64
_LEVEL = 127
_WEIGHTED = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
)
_SCALES = frozenset({"Multiply", "Subtract"})
_SHAPES = frozenset({"Convert", "Reshape", "Transpose", "Unsqueeze", "Squeeze"})
"""What else they take is a shape: of depthwise weights it is computed, when the network is compiled."""
_BITS = 8
_PROBE = f"""
<ir_version: 8, opset_import: ["" : 13]>
probe (float[1,{_CHANNELS},8,8] x) => (float[1,{_CHANNELS},8,8] y) {{
    q = QuantizeLinear (x, one, zero)  d = DequantizeLinear (q, one, zero)
    w = DequantizeLinear <axis = 0> (weight, ones, zeros)  y = Conv (d, w)
}}
"""
_IN_FLOAT: Mapping[str, Any] = MappingProxyType({"LP_TRANSFORMS_MODE": "NO"})
"""Keeps OpenVINO from turning fake quantization into integer arithmetic."""


def weight_reach(model: Any) -> int:
    """How large the integer weights of an openvino.Model may be: HALF where none of them uses more, else FULL."""
    return max((_reach(op) for op in model.get_ops() if op.get_type_name() in _WEIGHTED), default=HALF)


def _reach(product: Any) -> int:
    """That of one product: of the constants that its second operand is made of, weights and zero points together."""
    largest = 0
    for leaf in _leaves(product.input_value(1).get_node()):
        if leaf.get_type_name() != "Constant":
            return FULL
        if leaf.get_element_type().get_bitwidth() > _BITS or leaf.get_element_type().is_real():
            continue  # scales and shapes; of a float layer, its weights
        values = leaf.get_data()
        if values.dtype != np.int8:
            return FULL
        largest += int(np.abs(values.astype(np.int16)).max(initial=0))
    return HALF if largest <= HALF else FULL


def _leaves(op: Any) -> Iterator[Any]:
    """What an operand is made of, through what changes no integer."""
    kind = op.get_type_name()
    if kind not in _SCALES | _SHAPES:
        yield op
        return
    for value in op.input_values() if kind in _SCALES else op.input_values()[:1]:
        yield from _leaves(value.get_node())


@cache
def int8_properties(reach: int = FULL) -> Mapping[str, Any]:
    """What a quantized network is compiled with on this CPU: nothing where its integer sums are exact.

    Args:
        reach: the largest magnitude of its weights, FULL or HALF.

    Raises EngineError where neither integer nor float arithmetic gives the sum that it should.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(with_fake_quantize(_probe(reach)).SerializeToString())
    exact, got = _exact(reach), np.nan
    for properties in (MappingProxyType({}), _IN_FLOAT):
        try:
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **properties})
            got = compiled(np.full((1, _CHANNELS, 8, 8), _LEVEL, np.float32))[0][0, 0, 0, 0]
        except Exception as error:  # OpenVINO's errors share no base but this
            raise EngineError(
                f"openvino: expected to compute INT8 layers in float, since this CPU's integer sums saturate, got: "
                f"{one_line(error)}; use the ort engine, or a CPU with VNNI"
            ) from error
        if got == exact:
            return properties
    raise EngineError(
        f"openvino: expected an INT8 convolution to give {exact:,}, got {got:,.0f}: this CPU's integer sums saturate; "
        "use the ort engine, or a CPU with VNNI"
    )


def _exact(reach: int) -> int:
    return _CHANNELS * _LEVEL * reach


def _probe(reach: int) -> onnx.ModelProto:
    model = parser.parse_model(_PROBE)
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "weight": np.full((_CHANNELS, _CHANNELS, 1, 1), reach, np.int8),
        "ones": np.ones(_CHANNELS, np.float32),
        "zeros": np.zeros(_CHANNELS, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    return model
