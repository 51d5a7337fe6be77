"""What each layer of an engine takes: OpenVINO's counters, ONNX Runtime's profile, TensorRT's profiler, in one form."""

from engines.layer_times.times import USUAL, Kernel, LayerTime, LayerTimes, Timing, by_layer

__all__ = ["USUAL", "Kernel", "LayerTime", "LayerTimes", "Timing", "by_layer"]
