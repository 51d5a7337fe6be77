"""NVIDIA's own plugins: up to TensorRT 8.6 the parser makes InstanceNormalization of one."""

from __future__ import annotations

from typing import Any


def register_plugins(trt: Any, logger: Any) -> None:
    """Let TensorRT find its plugins, as trtexec does: to build with them, and to load engines that hold them.

    Once or more often in a process. TensorRT-RTX, which alone names its compute capabilities, needs none.
    """
    if hasattr(trt, "init_libnvinfer_plugins") and not hasattr(trt, "ComputeCapability"):
        trt.init_libnvinfer_plugins(logger, "")


def prefer_native(trt: Any, parser: Any) -> None:
    """Have InstanceNormalization built from TensorRT's own layers, where the parser lets one choose.

    The plugin of 8.6 takes no epsilon below 1e-4, and fits no version- or hardware-compatible engine. Later parsers do
    so by themselves.

    Source: NvOnnxParser.h of 8.6 and 10.0, OnnxParserFlag::kNATIVE_INSTANCENORM.
    """
    if hasattr(trt, "OnnxParserFlag") and hasattr(trt.OnnxParserFlag, "NATIVE_INSTANCENORM"):
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
