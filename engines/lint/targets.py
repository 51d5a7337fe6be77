"""What lint needs to know of a target beside the formats that it takes.

Operators seen with TensorRT-RTX 1.7.1, OpenVINO 2026.4 and ONNX Runtime 1.31 on a CPU; tests/engines/lint has
the cases.
TensorRT 8 to 11: the parser's table of operators, NVIDIA/TensorRT#1864 and #2131.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import assert_never

from engines.capabilities import Capabilities, Target, capabilities, on_machine


@dataclass(frozen=True)
class Takes:
    """What a target takes.

    Attributes:
        formats: the types, scales and zero points.
        tensorrt: whether Q/DQ fuse by position, symmetric INT8 only, with constant scales.
        missing: standard operators that it has not.
        foreign: domains of operators that it knows beside the standard ones.
    """

    formats: Capabilities
    tensorrt: bool
    missing: frozenset[str]
    foreign: frozenset[str]

    @property
    def name(self) -> str:
        """The target, for people."""
        return self.formats.title


_TENSORRT_LACKS = frozenset(
    {"AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad"}
    | {"Col2Im", "Compress", "ConcatFromSequence", "Det", "ImageDecoder", "MaxRoiPool", "MaxUnpool"}
    | {"MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement"}
    | {"OptionalHasElement", "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase"}
    | {"SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence"}
    | {"StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Unique"}
)
_RTX_LACKS = _TENSORRT_LACKS | frozenset({"BitCast", "CausalConvWithState", "CumProd", "DFT", "DeformConv", "NonZero"})
_NVIDIA = frozenset({"trt", "com.nvidia"})


def takes(target: Target, machine: int | None = None) -> Takes:
    """What is known about a target, on a GPU of one compute capability, as 87, where that is known."""
    formats = capabilities(target) if machine is None else on_machine(capabilities(target), machine)
    match target:
        case "tensorrt-8":
            return Takes(formats, True, _TENSORRT_LACKS, _NVIDIA)
        case "tensorrt-10" | "tensorrt-11":
            return Takes(formats, True, _TENSORRT_LACKS, _NVIDIA)
        case "tensorrt-rtx":
            return Takes(formats, True, _RTX_LACKS, frozenset())
        case "openvino":
            return Takes(formats, False, frozenset(), frozenset({"com.microsoft", "org.openvinotoolkit"}))
        case "onnxruntime":
            return Takes(formats, False, frozenset(), frozenset({"com.microsoft"}))
        case _:
            assert_never(target)
