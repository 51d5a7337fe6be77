"""What each target takes of the formats, and what a recipe must not ask of it.

Marks: [run] seen here, on TensorRT-RTX 1.7.1 ahead of time, OpenVINO 2026.4 and ONNX Runtime 1.31 on a CPU; [doc] the
documentation of NVIDIA TensorRT: "Working with Quantized Types", the support matrix, and the release notes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from typing_extensions import assert_never

from avcompress.recipe import (
    Cast,
    Dynamic,
    Engine,
    OpenVinoEngine,
    OrtEngine,
    Ptq,
    Recipe,
    RtxEngine,
    Stage,
    TrtEngine,
    WeightOnly,
)
from avcompress.spec import RecipeError

Target = Literal["tensorrt-8", "tensorrt-10", "tensorrt-11", "tensorrt-rtx", "openvino", "onnxruntime"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class Capabilities:
    """What a target takes.

    Attributes:
        title: its name for people.
        newest_opset: the newest that its parser reads.
        zero_points: other than zero.
        uint8: activations as uint8; False: refused, or taken for int8 without a word.
        per_channel_activations: scales per channel on an activation, and the layer still in INT8.
        int32_bias: biases as INT32 with a DequantizeLinear.
        dynamic: DynamicQuantizeLinear.
        int8_transposed: transposed convolutions in INT8.
        half_scales_from: the opset from which it takes FP16 scales, which FP16 between the quantized layers needs in a
            strongly typed network; 0: any; None: never.
        weight_only: a convolution whose weights only are quantized.
        int4: weights in INT4: of which layers.
        fp8_from: the first compute capability, as 89, with FP8 E4M3; 0: any machine; None: none.
        bf16_from: the same for BF16.
    """

    title: str
    newest_opset: int
    zero_points: bool
    uint8: bool
    per_channel_activations: bool
    int32_bias: bool
    dynamic: bool
    int8_transposed: bool
    half_scales_from: int | None
    weight_only: bool
    int4: Literal["none", "matrix products", "all"]
    fp8_from: int | None
    bf16_from: int | None


_TENSORRT_8 = Capabilities(
    title="TensorRT 8",
    newest_opset=17,  # [doc] 8.6
    zero_points=False,  # [doc] symmetric quantization only
    uint8=False,  # [doc] INT8 only
    per_channel_activations=False,  # [doc] per-channel scales for weights only
    int32_bias=False,  # [doc] DequantizeLinear on INT8 only
    dynamic=False,  # [doc] no importer for DynamicQuantizeLinear
    int8_transposed=False,  # NVIDIA/TensorRT#1699
    half_scales_from=None,  # weakly typed: FP32 scales, and the builder chooses FP16
    weight_only=False,  # Q/DQ on a weight alone is refused
    int4="none",  # [doc] from 10.0 on
    fp8_from=None,  # [doc] from 9.0 on
    bf16_from=None,  # [doc] from 9.0 on
)
_TENSORRT_10 = Capabilities(
    title="TensorRT 10",
    newest_opset=22,  # [doc] 10.13
    zero_points=False,  # [doc] symmetric quantization only
    uint8=False,  # [doc] INT8 only
    per_channel_activations=False,  # [doc] per-channel scales for weights only
    int32_bias=False,  # [doc] DequantizeLinear on FP8, INT8 and INT4
    dynamic=False,  # [doc] no importer for DynamicQuantizeLinear
    int8_transposed=False,  # NVIDIA/TensorRT#1699
    half_scales_from=0,  # [doc] strongly typed networks
    weight_only=True,
    int4="matrix products",  # [doc] INT4 weight-only quantization is for GEMM
    fp8_from=89,  # [doc] support matrix: Ada, Hopper and newer
    bf16_from=80,  # [doc] support matrix: Ampere and newer
)
_TENSORRT_11 = Capabilities(
    title="TensorRT 11",
    newest_opset=23,  # [doc]
    zero_points=False,  # [doc] symmetric quantization only
    uint8=False,  # [doc]
    per_channel_activations=False,  # [doc] per-channel scales for weights only
    int32_bias=False,  # [doc]
    dynamic=False,  # [doc] no importer for DynamicQuantizeLinear
    int8_transposed=False,  # NVIDIA/TensorRT#1699
    half_scales_from=0,  # [doc] strongly typed networks only
    weight_only=True,
    int4="matrix products",  # [doc] INT4 weight-only quantization is for GEMM
    fp8_from=89,  # [doc] support matrix
    bf16_from=80,  # [doc] support matrix
)
_TENSORRT_RTX = Capabilities(
    title="TensorRT-RTX",
    newest_opset=23,  # [run]
    zero_points=False,  # [run] 'shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported'
    uint8=False,  # [run] activations silently become INT8, weights: 'Found unsupported input type of UINT8'
    per_channel_activations=False,  # [run] builds, and the layer computes in FP32
    int32_bias=False,  # [run] 'has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8'
    dynamic=False,  # [run] refused while parsing
    int8_transposed=False,  # [run] a Half `deconv` that dequantizes its weight at run time
    half_scales_from=0,  # [run] FP16 and BF16 scales, opset 19 and 22
    weight_only=True,
    int4="all",  # [run] per channel and in blocks; convolutions dequantize at run time
    fp8_from=89,  # [run] 'Cannot compile for target(s) sm86, because the model contains HW-specific datatypes'
    bf16_from=80,  # [run] the same words for sm75
)
_OPENVINO = Capabilities(
    title="OpenVINO",
    newest_opset=23,  # [run]
    zero_points=True,  # [run] as a FakeQuantize
    uint8=True,  # [run]
    per_channel_activations=True,  # [run] depthwise convolutions stay INT8
    int32_bias=True,  # [run]
    dynamic=True,  # [run] the numbers of ONNX Runtime; computed in float
    int8_transposed=True,  # [run] AVX-512 with one group
    half_scales_from=0,  # [run] taken as FP32
    weight_only=True,
    int4="all",  # [run] computed in float
    fp8_from=0,  # [run] rounded to E4M3 by way of FP16: one value in 140 is off by a step; computed in float
    bf16_from=0,  # [run] by `precision: bf16` on CPUs that have it; else computed in FP32
)
_ONNXRUNTIME = Capabilities(
    title="ONNX Runtime",
    newest_opset=23,  # [run]
    zero_points=True,  # [run]
    uint8=True,  # [run]
    per_channel_activations=True,  # [run]
    int32_bias=True,  # [run]
    dynamic=True,  # [run]
    int8_transposed=True,  # [run] all of it computed in float between the grids, graph optimizations off
    half_scales_from=19,  # [run]
    weight_only=True,  # [run]
    int4="all",  # [run]
    fp8_from=0,  # [run]
    bf16_from=0,  # [run] engines.ort_dialect: FP32 arithmetic, each result rounded
)


def capabilities(target: Target) -> Capabilities:
    """What is known of a target."""
    match target:
        case "tensorrt-8":
            return _TENSORRT_8
        case "tensorrt-10":
            return _TENSORRT_10
        case "tensorrt-11":
            return _TENSORRT_11
        case "tensorrt-rtx":
            return _TENSORRT_RTX
        case "openvino":
            return _OPENVINO
        case "onnxruntime":
            return _ONNXRUNTIME
        case _:
            assert_never(target)


def on_machine(takes: Capabilities, machine: int) -> Capabilities:
    """What a target takes on a GPU of one compute capability, as 87: a type that comes with newer ones is missing."""

    def there(first: int | None) -> int | None:
        return None if first is None or machine < first else 0

    return replace(
        takes,
        title=f"{takes.title} on sm{machine}",
        fp8_from=there(takes.fp8_from),
        bf16_from=there(takes.bf16_from),
    )


@dataclass(frozen=True)
class Asked:
    """What one setting of a recipe asks of a target; the defaults ask nothing.

    Attributes:
        zero_points: activations with a zero point.
        dynamic: dynamic quantization.
        int4: weights in INT4.
        fp8: weights and activations in FP8 E4M3.
        weights: weights that alone are quantized, of convolutions.
        bf16: float arithmetic in BF16.
        opset: that the format needs.
    """

    zero_points: bool = False
    dynamic: bool = False
    int4: bool = False
    fp8: bool = False
    weights: bool = False
    bf16: bool = False
    opset: int = 0


def refusal(asked: Asked, target: Target, compute_capabilities: tuple[int, ...] = ()) -> str | None:
    """Why a target cannot do what is asked, and what to use instead; None if it can.

    Args:
        asked: of the target.
        target: which one.
        compute_capabilities: of the GPUs that an engine is built for, as 86.
    """
    return next(_refusals(asked, capabilities(target), compute_capabilities), None)


def _refusals(asked: Asked, takes: Capabilities, machines: tuple[int, ...]) -> Iterator[str]:
    if asked.zero_points and not takes.zero_points:
        yield f"expected symmetric activations, {takes.title} takes no zero points; use activations: symmetric"
    if asked.dynamic and not takes.dynamic:
        yield f"expected static quantization, {takes.title} has no dynamic one; use a ptq stage"
    if asked.int4 and takes.int4 != "all":
        only = "in matrix products only" if takes.int4 == "matrix products" else "not at all"
        yield f"expected weights in INT8, {takes.title} takes INT4 {only}, not in convolutions; use format: int8"
    if asked.weights and not takes.weight_only:
        yield f"expected weights and activations quantized, {takes.title} takes no weights alone; use int8"
    if asked.fp8:
        yield from _too_old("FP8", takes.fp8_from, takes, machines, "format: int8")
    if asked.bf16:
        yield from _too_old("BF16", takes.bf16_from, takes, machines, "format: fp16")
    if asked.opset > takes.newest_opset:
        yield f"expected what opset {takes.newest_opset} has, the format needs opset {asked.opset}; use a newer target"


def _too_old(
    kind: str, first: int | None, takes: Capabilities, machines: tuple[int, ...], instead: str
) -> Iterator[str]:
    if first is None:
        yield f"expected another format, {takes.title} has no {kind}; use {instead}"
        return
    old = [machine for machine in machines if machine < first]
    if old:
        names = ", ".join(f"sm{machine}" for machine in old)
        rest = ", ".join(f"sm{machine}" for machine in machines if machine >= first) or f"sm{first}"
        yield (
            f"expected GPUs from sm{first} on, {names} {'have' if len(old) > 1 else 'has'} no {kind}; "
            f"use compute_capabilities: [{rest}], or {instead}"
        )


def check_formats(recipe: Recipe) -> None:
    """Find a stage whose format an engine of the recipe cannot take; raises RecipeError with what to use instead."""
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, Ptq) and stage.format == "fp8" and stage.activations != "symmetric":
            raise RecipeError(
                f"stages[{index}].activations: expected symmetric for format: fp8, which is even about zero, "
                f"got {stage.activations}; leave activations out"
            )
        for key, asked in _all_asked(stage):
            for engine in recipe.target.engines:
                target, machines = _target(engine)
                reason = refusal(asked, target, machines)
                if reason is not None:
                    raise RecipeError(
                        f"stages[{index}].{key}: {reason}, or leave {engine.backend} out of target.engines"
                    )


def _all_asked(stage: Stage) -> Iterator[tuple[str, Asked]]:
    """What a stage asks of a target; one that may choose a format, each of those that it may."""
    formats = stage.mixed.formats if isinstance(stage, Ptq) and stage.mixed is not None else None
    if formats is None:
        yield _asked(stage)
        return
    for name in formats:
        asked = Asked(weights=True) if name == "int8 weights" else _asked(stage.model_copy(update={"format": name}))[1]
        yield "mixed.formats", asked


def _asked(stage: Stage) -> tuple[str, Asked]:
    """What a stage asks of a target, and the key that asks it."""
    match stage:
        case Ptq(format="fp8"):
            return "format", Asked(fp8=True, opset=19)
        case Ptq(activations="asymmetric"):
            return "activations", Asked(zero_points=True)
        case Dynamic():
            return "kind", Asked(dynamic=True)
        case WeightOnly(format="int4"):
            return "format", Asked(int4=True, opset=21)
        case Cast(format="bf16"):
            return "format", Asked(bf16=True, opset=22)
        case _:
            return "kind", Asked()


def _of_target(name: str | None) -> tuple[Target, tuple[int, ...]]:
    if name is None:
        return "tensorrt-10", ()  # which one it is, only the machine that builds it knows
    from engines.profile_load import load_profile  # profiles name these targets

    chosen = load_profile(name)
    return chosen.capabilities, (chosen.profile.machine,) if chosen.profile.machine else ()


def _target(engine: Engine) -> tuple[Target, tuple[int, ...]]:
    match engine:
        case OrtEngine():
            return "onnxruntime", ()
        case OpenVinoEngine():
            return "openvino", ()
        case RtxEngine():
            return "tensorrt-rtx", tuple(int(name.removeprefix("sm")) for name in engine.compute_capabilities)
        case TrtEngine():
            return _of_target(engine.target)
        case _:
            assert_never(engine)
