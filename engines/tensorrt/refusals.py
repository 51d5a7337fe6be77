"""What TensorRT says when it refuses, as one line: the node, its words, and what to do.

TensorRT never raises: it returns None, False or -1, and its log holds the reason. Marks: [run] seen on TensorRT-RTX
1.7.1; [doc] documentation or release notes; [issue] a GitHub thread of NVIDIA/TensorRT; [know] not verified.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from avcompress.spec import EngineBuildError
from engines.session import one_line

_ERROR_LINES = ("[ERROR]", "[INTERNAL_ERROR]")
# Follows every error on a machine without a GPU, and is not the reason.
MISLEADING = "catchCudaError"
_MISLEADING_TAIL = re.compile(r"\s*\[\S*catchCudaError.*", re.DOTALL)
_SHOWN_ERRORS = 3
_OF_SETTINGS = frozenset({"start", "configure", "profile", "calibrate"})
_NODES = (
    re.compile(r"(?:node|layer|Node|Layer)[ :]+[\"'{\[]?([^\s\"'}\]]+)"),
    re.compile(r"(\S+)_\d+ has no runners"),
)

_ADVICE = (
    ("no runners that implement it", "cut the graph before that operator, and run it outside the engine"),  # [run] NMS
    ("Non-zero zero point", "quantize symmetrically, with zero point 0"),  # [run]
    ("UINT8", "quantize to int8 with zero point 0"),  # [run]
    ("datatype (4)", "quantize to int8 with zero point 0"),  # [run] uint16
    ("datatype (5)", "quantize to int8 with zero point 0"),  # [run] int16
    ("K exceeds the maximum", "lower k, or cut the graph before that operator"),  # [run]
    ("type Int32", "leave biases in float: no DequantizeLinear on int32"),  # [run]
    ("Plugin not found", "replace the plugin's operator by standard ones"),  # [run]
    ("Could not infer output types", "keep that node in FP32: cast.keep_float"),  # [run]
    ("DynamicQuantizeLinear", "quantize statically: a ptq stage"),  # [run]
    ("HW-specific datatypes", "leave out the compute capabilities without that type"),  # [run]
    ("Scale coefficients", "calibrate again: every scale must be above zero"),  # [run]
    ("number of scales is not equal", "give one scale, or one for each output channel"),  # [run]
    ("must have same input types", "cast both inputs to one type in the graph"),  # [run]
    ("within workspace limit", "raise the workspace"),  # [run]
    ("insufficient workspace", "raise the workspace"),  # [issue]
    ("libnvinfer_lean", "leave out the version-compatible engine, or install the lean runtime"),  # [run]
    ("DLA backend", "build for the GPU: this machine or TensorRT has no DLA"),  # [run]
    (
        "no scaling factors detected",
        "export the folder again: its calibration cache does not fit the network",
    ),  # [know]
    ("Calibration failure", "export the folder again: its calibration cache does not fit the network"),  # [know]
    ("is not supported by current version of TensorRT", "use a TensorRT release that knows this GPU"),  # [know]
    ("Target GPU SM", "use a TensorRT release that knows this GPU"),  # [issue]
    ("Could not fuse 2nd input", "quantize the input too, or store the weights in float"),  # [issue]
    (
        "out of memory",
        "free memory of the GPU, lower the workspace, or build with a lower optimization level",
    ),  # [know]
    ("OutOfMemory", "free memory of the GPU, lower the workspace, or build with a lower optimization level"),  # [know]
    (
        "Could not find any implementation",
        "raise the workspace; if it is large already, leave that node float",
    ),  # [issue]
    ("CUDA initialization failure", "look at nvidia-smi (or tegrastats): the GPU cannot be used"),  # [run]
    ("factory function returned nullptr", "look at nvidia-smi (or tegrastats): the GPU cannot be used"),  # [run]
    ("driver version is insufficient", "name compute capabilities: the one of this machine needs its GPU"),  # [run]
    ("optimization profile", "mend --shapes"),  # [doc]
)


def advice_for(text: str, otherwise: str) -> str:
    """What to do about words of TensorRT."""
    return next((advice for mark, advice in _ADVICE if mark in text), otherwise)


def _otherwise(module: str) -> str:
    backend = "trt_rtx" if module == "tensorrt_rtx" else "trt"
    return f"change that part of the network, or leave {backend} out of target.engines"


def _title(module: str) -> str:
    return "TensorRT-RTX" if module == "tensorrt_rtx" else "TensorRT"


def refused(name: str, module: str, stage: str, errors: Iterable[Mapping[str, str]], log: str) -> EngineBuildError:
    """The error for what the parser or the builder refused, the parser's own words first.

    Args:
        name: of the network's file.
        module: tensorrt or tensorrt_rtx.
        stage: where it ended.
        errors: message, and node, op and remedy where they are known.
        log: all that the builder said.
    """
    listed = list(errors)
    said = [_described(error) for error in listed]
    if not any(error.get("node") or error.get("remedy") for error in listed):
        # What concerns no node, as a constant's type, only the log explains.
        said = [*error_lines(log), *said] or ["an empty network"]
    text = one_line("; ".join(list(dict.fromkeys(said))[:_SHOWN_ERRORS]), limit=700)
    remedy = next((error["remedy"] for error in listed if error.get("remedy")), "")
    remedy = remedy or advice_for(text, _otherwise(module))
    node = next((error["node"] for error in listed if error.get("node")), "") or _node_in(text)
    wanted = "settings that {} takes" if stage in _OF_SETTINGS else "a network that {} compiles"
    message = f"{name}: expected {wanted.format(_title(module))}, got: {text}; {remedy}"
    return EngineBuildError(stage, message, node=node, remedy=remedy)


def _described(error: Mapping[str, str]) -> str:
    op = f" ({error['op']})" if error.get("op") else ""
    node = f"node {error['node']!r}{op}: " if error.get("node") else ""
    return f"{node}{one_line(_MISLEADING_TAIL.sub('', error['message']))}"


def _node_in(text: str) -> str:
    found = next(filter(None, (pattern.search(text) for pattern in _NODES)), None)
    return found[1].rstrip(".,:;") if found else ""


def error_lines(log: str) -> list[str]:
    """The builder's error messages, without the one that every error on a machine without a GPU is followed by."""
    lines = (line for line in log.split("\n") if line.startswith(_ERROR_LINES) and MISLEADING not in line)
    return [one_line(line.partition("] ")[2]) for line in lines]


def crashed(name: str, module: str, code: int, log: str, printed: str) -> EngineBuildError:
    """The error for a child that ended before it could report.

    Args:
        name: of the network's file.
        module: tensorrt or tensorrt_rtx.
        code: its exit code; negative for a signal.
        log: what the builder said.
        printed: what the child printed: a traceback, a message of the loader.
    """
    remedy = _otherwise(module)
    if code == -signal.SIGKILL:
        ending, remedy = "it was killed, out of memory perhaps", "free memory, or build on a larger machine"
    elif code < 0:
        ending = f"it crashed ({signal.Signals(-code).name})"
    else:
        ending = f"it ended with code {code}"
    said = "; ".join(error_lines(log)[-1:] or [line for line in printed.strip().split("\n")[-1:] if line])
    remedy = advice_for(said, remedy)
    return EngineBuildError(
        "build",
        f"{name}: expected the compiler to end, got: {ending}{': ' if said else ''}{one_line(said)}; {remedy}",
        remedy=remedy,
    )


def read_text(path: Path) -> str:
    """What a child has written; "" where it did not come to that."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
