"""What a layer of an engine multiplies in, and with it each weighted ONNX node.

A claim needs evidence: INT8 and FP8 arithmetic need both operands in that type, the data and the weight, or a kernel
whose name says what it multiplies; where two signs contradict each other, nothing is claimed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from engines.layer_map.layer import PRECISIONS, UNKNOWN, BuilderLayer

GENERATED = frozenset({"fusion", "kgen", "runtime_fusion"})
"""Kernels that Myelin writes itself; they are called after what they do, in order."""
_INTEGERS = {"Int8": "int8", "FP8": "fp8"}
_PRODUCTS = frozenset({"correlation", "convolution", "deconv", "gemm"})
# TensorRT's own kernels: CaskConvolution, CudaDepthwiseConvolution, CaskConvActPool, MatrixMultiply, ...
_LIBRARY = re.compile(r"Convolution|ConvAct|Deconvolution|MatrixMultiply|FullyConnected|Gemm")
_GENERATED_NAME = re.compile(r"__myl_(?P<steps>\w+?)_myl\d+_\d+(?: \[profile \d+\])?$")
_STEP = re.compile(r"[A-Z][a-z0-9]*")
_ATTENTION = re.compile(r"_gemm_mha_v\d+_myl")
_PRODUCT_STEPS = frozenset({"Conv", "Corr", "Deco", "Fc", "Gemm", "MatM"})
# xmma kernels: the types of the operands, then those of the product and of the sum, as i8i8_i8i32 or f16f16_f16f32.
_XMMA = re.compile(r"_(?:e4m3|bf16|tf32|f16|f32|i8)+_(?P<type>e4m3|bf16|tf32|f16|f32|i8)(?:bf16|f16|f32|i32)(?:_|$)")
_XMMA_TYPES = {"e4m3": "fp8", "bf16": "bf16", "tf32": "fp32", "f16": "fp16", "f32": "fp32", "i8": "int8"}


def layer_precisions(layers: Iterable[BuilderLayer], weighted: Iterable[str]) -> dict[str, str]:
    """What each weighted node computes in: int8, fp8, fp16, fp32, bf16, or unknown.

    Unknown is a node that no product names, one that several name in different types, and one whose product does not
    tell. FP32 may be TF32.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for layer in layers:
        precision = product_precision(layer)
        for node in layer.nodes if precision is not None else ():
            found[node].add(precision or UNKNOWN)
    return {name: _only(found[name]) if name in found else UNKNOWN for name in weighted}


def _only(precisions: set[str]) -> str:
    return next(iter(precisions)) if len(precisions) == 1 else UNKNOWN


def product_precision(layer: BuilderLayer) -> str | None:
    """The type that a layer multiplies in; None for a layer that multiplies no weights."""
    steps = generated_steps(layer)
    place = product_place(steps)
    if place is not None:
        told = _of_generated(layer, steps[:place], vector=steps[place] == "Sum")
    elif _ATTENTION.match(layer.name):
        told = _of_attention(layer)
    elif layer.kind in _PRODUCTS or _LIBRARY.search(layer.kind):
        told = _of_operands(layer)
    else:
        return None
    return _confirmed(told, layer)


def _of_attention(layer: BuilderLayer) -> str:
    """Of two products around a softmax in one kernel."""
    told = _only(set(layer.inputs))
    return PRECISIONS.get(told, UNKNOWN) if told not in _INTEGERS else UNKNOWN


def generated_steps(layer: BuilderLayer) -> tuple[str, ...]:
    """What a generated kernel does, in order: `__myl_CastMulFc_myl0_6` is Cast, Mul, Fc. Long names are cut: Etc."""
    match = _GENERATED_NAME.search(layer.name)
    return tuple(_STEP.findall(match["steps"])) if match and layer.kind in GENERATED else ()


def product_place(steps: tuple[str, ...]) -> int | None:
    """Where a generated kernel multiplies by a weight; a sum of products is a vector times a matrix."""
    for place, step in enumerate(steps):
        if step in _PRODUCT_STEPS or (step == "Sum" and steps[place - 1 : place] == ("Mul",)):
            return place
    return None


def _of_operands(layer: BuilderLayer) -> str:
    """Of a kernel that takes its operands as they are."""
    data = layer.inputs[0] if layer.inputs else ""
    if data in _INTEGERS and (*layer.inputs, *layer.constants).count(data) < 2:
        return UNKNOWN
    return PRECISIONS.get(data, UNKNOWN)


def _of_generated(layer: BuilderLayer, before: tuple[str, ...], vector: bool) -> str:
    """Of a kernel that may convert what it reads before it multiplies.

    `before` are the steps up to the product. Cast, Mul: an operand is dequantized first. Mul, Min, Max, Roun, Cast: the
    data are quantized first, and the weight, of the same type, is read as it is. A sum of products, of a vector, is
    float arithmetic.
    """
    operands = {*layer.inputs, *layer.constants}
    integers = sorted(operands & _INTEGERS.keys())
    floats = {PRECISIONS[name] for name in operands & PRECISIONS.keys() - _INTEGERS.keys()}
    if not integers:
        return UNKNOWN if "Cast" in before and len(floats) > 1 else _of_operands(layer)
    if vector or "Cast" not in before:
        return UNKNOWN if vector or len(integers) > 1 else _of_operands(layer)
    if "Roun" in before:
        weight = integers == ["Int8"] and "Int8" in layer.constants and "Int8" not in layer.inputs
        return "int8" if weight and before[-2:] == ("Roun", "Cast") else UNKNOWN
    return _only(floats) if before[-1] != "Cast" else UNKNOWN


def _confirmed(told: str, layer: BuilderLayer) -> str:
    """What operands and kernel say together: the kernel's name may tell what they leave open, and may contradict."""
    match = _XMMA.search(layer.tactic)
    if match is None:
        return told
    kernel = _XMMA_TYPES[match["type"]]
    data = PRECISIONS.get(layer.inputs[0], UNKNOWN) if layer.inputs else UNKNOWN
    return kernel if kernel == (data if told == UNKNOWN else told) else UNKNOWN
