"""A network in memory as an ONNX Runtime session on the CPU, without a file to load."""

from __future__ import annotations

import onnx
import onnxruntime as ort

from avcompress.spec import ModelError
from engines.onnx_graph import first_line
from engines.ort_dialect import with_float_kernels

THREADS = 2
_SILENT = 4  # errors come as exceptions; the log would only repeat them


def open_model(model: onnx.ModelProto, optimize: bool = False, threads: int = THREADS) -> ort.InferenceSession:
    """Load a network; raises ModelError where ONNX Runtime refuses it.

    Args:
        model: float or quantized, in any precision.
        optimize: all graph optimizations; off, every operator is computed as ONNX defines it.
        threads: of one run.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin between runs take the cores that the caller's own work needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _SILENT
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    network = with_float_kernels(model).SerializeToString()
    try:
        return ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no other base
        raise ModelError(
            f"ONNX Runtime: expected a model it can run, got: {first_line(error)}; export the network again"
        ) from error
