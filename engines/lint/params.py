"""What is wrong with the scales, zero points and types of Q/DQ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from engines.lint.finding import Finding
from engines.lint.targets import Takes
from engines.lint.view import Quant, View
from engines.onnx_graph import is_standard

_WIDE = frozenset({TensorProto.INT16, TensorProto.UINT16})
_EIGHT = frozenset({TensorProto.INT8, TensorProto.UINT8})
FP8 = frozenset(
    {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ}
)
_FOUR = frozenset({TensorProto.INT4, TensorProto.UINT4})
_SMALLEST = np.finfo(np.float32).tiny


def findings(view: View, target: Takes) -> Iterator[Finding]:
    """What is wrong with the numbers of a graph's Q/DQ."""
    for quant in view.quants.values():
        yield from _scale(view, quant, target)
        yield from _type(view, quant, target)
        if quant.quantizes:
            yield from _pair(view, quant)


def type_name(kind: int) -> str:
    """An ONNX element type in small letters."""
    return str(TensorProto.DataType.Name(kind)).lower()


# --- scales


def _scale(view: View, quant: Quant, target: Takes) -> Iterator[Finding]:
    scale = quant.scale
    if scale is None:
        if target.tensorrt and quant.node.input[1] not in view.constant:
            yield Finding(
                "scale_dynamic",
                "refused",
                quant.label,
                "its scale is computed at run time",
                f"{target.name} takes constant scales only; TensorRT-RTX crashes",
                "quantize statically, with calibrated scales",
            )
        return
    values = scale.astype(np.float64)
    if not (values > 0).all():  # NaN is not above zero either
        yield Finding(
            "scale_value",
            "refused" if target.tensorrt else "changed",
            quant.label,
            f"a scale of {_first(values, ~(values > 0))}",
            "every scale must be above zero" if target.tensorrt else "the values become zero, NaN, or their opposites",
            "calibrate again; a channel of zeros needs any scale above zero",
        )
    elif not np.isfinite(values).all() or (values < _SMALLEST).any():
        bad = ~np.isfinite(values) | (values < _SMALLEST)
        yield Finding(
            "scale_value",
            "changed",
            quant.label,
            f"a scale of {_first(values, bad)}",
            "accepted, and every value becomes NaN, zero, or saturated",
            "calibrate again",
        )
    yield from _scale_length(view, quant)
    yield from _half_scale(view, quant, target)


def _first(values: np.typing.NDArray[np.float64], bad: np.typing.NDArray[np.bool_]) -> str:
    where = np.argwhere(bad)[0]
    at = f" at channel {where[0]}" if values.ndim and values.size > 1 else ""
    return f"{values[tuple(where)]:g}{at}"


def _scale_length(view: View, quant: Quant) -> Iterator[Finding]:
    scale, shape = quant.scale, view.shapes.get(quant.tensor) or view.shapes.get(quant.output)
    if scale is None or scale.size == 1 or shape is None or quant.block_size:
        return
    wanted = shape[quant.axis] if quant.axis < len(shape) else 0
    if wanted >= 0 and (scale.ndim != 1 or scale.size != wanted):
        yield Finding(
            "scale_length",
            "refused",
            quant.label,
            f"{scale.size} scales for axis {quant.axis} of a tensor of shape {'x'.join(map(str, shape))}",
            f"expected {wanted}" if wanted else f"the tensor has no axis {quant.axis}",
            "give one scale per channel of that axis, or another axis",
        )


def _half_scale(view: View, quant: Quant, target: Takes) -> Iterator[Finding]:
    kind = view.types.get(quant.node.input[1])
    if kind not in {TensorProto.FLOAT16, TensorProto.BFLOAT16} or not is_standard(quant.node):
        return
    first = target.formats.half_scales_from
    if first is None:
        yield Finding(
            "scale_float16",
            "refused",
            quant.label,
            f"a {type_name(kind)} scale",
            f"{target.name} takes float32 scales only, and chooses FP16 itself",
            "leave the network in float32",
        )
    elif view.opset < 19:
        yield Finding(
            "scale_float16",
            "refused" if view.opset < first else "note",
            quant.label,
            f"a {type_name(kind)} scale at opset {view.opset}",
            "ONNX has such scales from opset 19 on",
            "convert the model to opset 19",
        )


# --- integer types and zero points


def _type(view: View, quant: Quant, target: Takes) -> Iterator[Finding]:
    if quant.dtype == TensorProto.INT32:
        if not target.formats.int32_bias:
            yield _int32(view, quant, target)
    elif quant.dtype in FP8:
        yield from _fp8(quant, target)
    elif target.tensorrt:
        yield from _for_tensorrt(view, quant, target)


def _int32(view: View, quant: Quant, target: Takes) -> Finding:
    return Finding(
        "int32_bias",
        "refused",
        quant.label,
        "a DequantizeLinear of int32: a quantized bias",
        f"{target.name} dequantizes 8-bit types only, and quantizes biases itself",
        "store the bias in float",
        fixable=quant.tensor in view.tensors and quant.scale is not None,
    )


def _fp8(quant: Quant, target: Takes) -> Iterator[Finding]:
    first = target.formats.fp8_from
    if first is None:
        yield Finding(
            "fp8",
            "refused",
            quant.label,
            f"quantized to {type_name(quant.dtype)}",
            f"{target.name} has no FP8",
            "quantize to int8",
        )
    elif first:
        yield Finding(
            "fp8",
            "note",
            quant.label,
            f"quantized to {type_name(quant.dtype)}",
            f"built only for GPUs from compute capability {first / 10} on (Ada, Hopper, Blackwell): not for 8.6, "
            "nor for Orin (8.7)",
            "leave out the older GPUs, or quantize to int8",
        )


def _for_tensorrt(view: View, quant: Quant, target: Takes) -> Iterator[Finding]:
    constant = quant.tensor in view.tensors
    four = target.formats.int4 != "none"
    if quant.dtype in _WIDE or (quant.dtype in _FOUR and not (constant and four)):
        yield Finding(
            "integer_type",
            "refused",
            quant.label,
            f"quantized to {type_name(quant.dtype)}",
            f"{target.name} knows int8" + (", and int4 for weights" if four else ""),
            "quantize to int8",
        )
    elif quant.dtype == TensorProto.UINT4:
        yield Finding(
            "integer_type",
            "refused",
            quant.label,
            "weights stored as uint4",
            f"{target.name} knows int4",
            "quantize to int4, symmetrically",
        )
    elif quant.zero_point is not None and quant.zero_point.astype(np.float32).any():
        yield _zero_point(view, quant, target)
    elif quant.dtype == TensorProto.UINT8:
        yield _unsigned(view, quant, target, constant)


def _zero_point(view: View, quant: Quant, target: Takes) -> Finding:
    shown = quant.zero_point.ravel()[np.flatnonzero(quant.zero_point)[0]] if quant.zero_point is not None else 0
    return Finding(
        "zero_point",
        "refused",
        quant.label,
        f"{type_name(quant.dtype)} with zero point {shown}",
        f"{target.name} knows symmetric quantization only: 'Non-zero zero point is not supported'",
        "quantize symmetrically to int8"
        if not _centred(quant)
        else "store it as int8 with zero point 0: the same numbers",
        fixable=refittable(view, quant),
    )


def _centred(quant: Quant) -> bool:
    """Whether it is uint8 around 128: int8 around 0 by another name."""
    return quant.dtype == TensorProto.UINT8 and quant.zero_point is not None and bool((quant.zero_point == 128).all())


def _unsigned(view: View, quant: Quant, target: Takes, constant: bool) -> Finding:
    stored = constant and not quant.quantizes
    if stored:
        return Finding(
            "uint8",
            "refused",
            quant.label,
            "weights stored as uint8",
            f"{target.name}: 'Found unsupported input type of UINT8'",
            "store them as int8 with zero point 0",
            fixable=refittable(view, quant),
        )
    explicit = quant.explicit
    return Finding(
        "uint8" if explicit else "no_zero_point",
        "changed",
        quant.label,
        "quantized to uint8" if explicit else "no zero point: ONNX's default type is uint8",
        f"{target.name} silently takes it for int8: the upper half of the range is clipped, and the lower end is not",
        "quantize to int8 with zero point 0",
        fixable=refittable(view, quant),
    )


def refittable(view: View, quant: Quant) -> bool:
    """Whether all the Q/DQ that share these integers are known, so that they can be put on another grid together."""
    if not _known(quant) or quant.dtype not in _EIGHT or quant.block_size:
        return False
    integers = quant.output if quant.quantizes else quant.tensor
    source = view.quants.get(integers)
    made_here = integers in view.tensors or (source is not None and source.quantizes)
    dequantizers = [view.quants.get(node.output[0]) for node in view.readers(integers)]
    shared = [each for each in (source, *dequantizers) if each is not None]
    whole = len(shared) == len(dequantizers) + (source is not None) and not any(q.quantizes for q in shared[1:])
    return made_here and whole and integers not in view.outputs and all(q.same_grid(quant) for q in shared)


def _known(quant: Quant) -> bool:
    """Whether scale and zero point are stored constants, and the scale is a sane one."""
    given = len(quant.node.input) > 2 and quant.node.input[2] != ""
    sane = quant.scale is not None and bool((np.isfinite(quant.scale) & (quant.scale > 0)).all())
    return sane and (quant.zero_point is not None or not given)


# --- pairs


def _pair(view: View, quant: Quant) -> Iterator[Finding]:
    for node in view.readers(quant.output):
        other = view.dequantized(node.output[0]) if node.output else None
        known = other is not None and quant.scale is not None and other.scale is not None
        if other is not None and known and not other.same_grid(quant):
            yield Finding(
                "pair_mismatch",
                "note",
                other.label,
                f"dequantized with another scale or zero point than {quant.label} quantized it with",
                "the values are multiplied by the quotient of the scales",
                "meant so? else export the model again",
            )
