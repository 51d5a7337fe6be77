"""What each target makes of the kinds of layers that can go either way, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Rules:
    """Why a kind of layer stays float on one target; "" where it is quantized. A recipe's keep_float goes before.

    Attributes:
        depthwise: convolutions with one input channel a group.
        squeeze_excite: the layers that compute a channel's gate from the mean over its positions.
        attention_split: matrix products whose output is split into the operands of an attention.
        transposed: transposed convolutions of one group.
        grouped_transposed: those of several groups.
        large_fp8: convolutions with a kernel of more than LARGEST_FP8_KERNEL values, in FP8.
        small_channels: the fewest channels a group of a quantized convolution; 0 asks for none.
    """

    depthwise: str
    squeeze_excite: str
    attention_split: str
    transposed: str
    grouped_transposed: str
    large_fp8: str
    small_channels: int


LARGEST_FP8_KERNEL = 32
_GATE = "its error would scale whole channels, for next to no MACs"

TENSORRT = Rules(
    # The INT8 kernel pads each group to 4 channels, by a copy of its own: seen in the layer log of TensorRT-RTX 1.7.1.
    # And with one scale a tensor it is where small detectors lose their accuracy: YOLOX-nano AP .275 with them float,
    # .039 with them INT8.
    depthwise="no faster in INT8 on TensorRT, and it loses accuracy",
    # NNCF's ignored patterns hold the block for every target; ModelOpt does not fuse its Mul either.
    squeeze_excite=_GATE,
    # TensorRT-RTX 1.7.1 takes one product apart by its consumers, and dequantizes its operands for it: `CastMulFc`, in
    # INT8 and FP8. Three products of one input stay INT8.
    attention_split="TensorRT-RTX computes it in float",
    # TensorRT-RTX 1.7.1 compiles a Half `deconv` that dequantizes the weight at run time; NVIDIA/TensorRT#1699.
    transposed="computed in FP16 by TensorRT",
    grouped_transposed="computed in FP16 by TensorRT",
    # TensorRT-RTX 1.7.1: 4 x 8 and 2 x 16 run in FP8, 3 x 11 and 5 x 7 in float, whatever the channels.
    large_fp8="TensorRT computes it in float",
    # ModelOpt leaves convolutions below 16 channels float for speed: kernels pad channels to 4, 16 or 32. Accuracy does
    # not suffer, and ESPNet, whose branches have 12 to 28 channels, would fall far below 90 % of its MACs.
    small_channels=0,
)

CPU = Rules(
    # OpenVINO 2026 on AVX-512: brgconv_avx512_dw_I8.
    depthwise="",
    squeeze_excite=_GATE,
    attention_split="",
    # OpenVINO 2026 on AVX-512: brgconv_avx512_i8 with one group, scales per channel or per tensor; jit_avx512_dw_f32
    # with several.
    transposed="",
    grouped_transposed="computed in FP32 by OpenVINO",
    large_fp8="",
    small_channels=0,
)


def rules_for(target: Literal["tensorrt", "cpu"], number_format: Literal["int8", "fp8"] = "int8") -> Rules:
    """The rules by the name that a recipe gives them, and by its format."""
    match target:
        case "tensorrt":
            return TENSORRT if number_format == "fp8" else replace(TENSORRT, large_fp8="")
        case "cpu":
            return CPU
