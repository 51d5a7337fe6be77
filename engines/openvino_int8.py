"""Whether OpenVINO's INT8 kernels compute rightly on this CPU: tried, once a process.

x86 CPUs without VNNI multiply bytes by VPMADDUBSW, which adds two products in 16 bits: 2 * 255 * 127 = 64,770 saturates
to 32,767. OpenVINO 2025.0 to 2026.4 uses it all the same, and YOLOX-nano falls from AP .282 to .009. On such a CPU the
network is computed in float, with every value rounded to its INT8 grid as before: right, and no faster than FP32.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, VPMADDUBSW.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from avcompress.spec import EngineError
from engines.openvino_dialect import with_fake_quantize
from engines.session import one_line

_CHANNELS = 64
_LEVEL = 127
_EXACT = _CHANNELS * _LEVEL * _LEVEL
_PROBE = f"""
<ir_version: 8, opset_import: ["" : 13]>
probe (float[1,{_CHANNELS},8,8] x) => (float[1,{_CHANNELS},8,8] y) {{
    q = QuantizeLinear (x, one, zero)  d = DequantizeLinear (q, one, zero)
    w = DequantizeLinear <axis = 0> (weight, ones, zeros)  y = Conv (d, w)
}}
"""
_IN_FLOAT: Mapping[str, Any] = MappingProxyType({"LP_TRANSFORMS_MODE": "NO"})
"""Keeps OpenVINO from turning fake quantization into integer arithmetic."""


@cache
def int8_properties() -> Mapping[str, Any]:
    """What a quantized network is compiled with on this CPU: nothing where its integer sums are exact.

    Raises EngineError where neither integer nor float arithmetic gives the sum that it should.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(with_fake_quantize(_probe()).SerializeToString())
    got = np.nan
    for properties in (MappingProxyType({}), _IN_FLOAT):
        try:
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **properties})
            got = compiled(np.full((1, _CHANNELS, 8, 8), _LEVEL, np.float32))[0][0, 0, 0, 0]
        except Exception as error:  # OpenVINO's errors share no base but this
            raise EngineError(
                f"openvino: expected to compute INT8 layers in float, since this CPU's integer sums saturate, got: "
                f"{one_line(error)}; use the ort engine, or a CPU with VNNI"
            ) from error
        if got == _EXACT:
            return properties
    raise EngineError(
        f"openvino: expected an INT8 convolution to give {_EXACT:,}, got {got:,.0f}: this CPU's integer sums saturate; "
        "use the ort engine, or a CPU with VNNI"
    )


def _probe() -> onnx.ModelProto:
    model = parser.parse_model(_PROBE)
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "weight": np.full((_CHANNELS, _CHANNELS, 1, 1), _LEVEL, np.int8),
        "ones": np.ones(_CHANNELS, np.float32),
        "zeros": np.zeros(_CHANNELS, np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    return model
