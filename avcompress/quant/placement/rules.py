"""What each target makes of the kinds of layers that can go either way, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rules:
    """Why a kind of layer stays float on one target; "" where it is quantized. A recipe's keep_float goes before.

    Attributes:
        depthwise: convolutions with one input channel a group.
        squeeze_excite: the layers that compute a channel's gate from the mean over its positions.
        transposed: transposed convolutions of one group.
        grouped_transposed: those of several groups.
        small_channels: the fewest channels a group of a quantized convolution; 0 asks for none.
    """

    depthwise: str
    squeeze_excite: str
    transposed: str
    grouped_transposed: str
    small_channels: int


_GATE = "its error would scale whole channels, for next to no MACs"

TENSORRT = Rules(
    # The INT8 kernel pads each group to 4 channels, by a copy of its own: seen in the layer log of TensorRT-RTX 1.7.1.
    # And with one scale a tensor it is where small detectors lose their accuracy: YOLOX-nano AP .275 with them float,
    # .039 with them INT8.
    depthwise="no faster in INT8 on TensorRT, and it loses accuracy",
    # NNCF's ignored patterns hold the block for every target; ModelOpt does not fuse its Mul either.
    squeeze_excite=_GATE,
    # TensorRT-RTX 1.7.1 compiles a Half `deconv` that dequantizes the weight at run time; NVIDIA/TensorRT#1699.
    transposed="computed in FP16 by TensorRT",
    grouped_transposed="computed in FP16 by TensorRT",
    # ModelOpt leaves convolutions below 16 channels float for speed: kernels pad channels to 4, 16 or 32. Accuracy does
    # not suffer, and ESPNet, whose branches have 12 to 28 channels, would fall far below 90 % of its MACs.
    small_channels=0,
)

CPU = Rules(
    # OpenVINO 2026 on AVX-512: brgconv_avx512_dw_I8.
    depthwise="",
    squeeze_excite=_GATE,
    # OpenVINO 2026 on AVX-512: brgconv_avx512_i8 with one group, scales per channel or per tensor; jit_avx512_dw_f32
    # with several.
    transposed="",
    grouped_transposed="computed in FP32 by OpenVINO",
    small_channels=0,
)


def rules_for(target: Literal["tensorrt", "cpu"]) -> Rules:
    """The rules by the name that a recipe gives them."""
    match target:
        case "tensorrt":
            return TENSORRT
        case "cpu":
            return CPU
