"""The script of a build folder: one command for the device that the engine is for, with Python or without."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from engines.tensorrt.settings import BuildSettings, Profile

_HEAD = """#!/bin/sh
# Builds the engine of this folder on the device that it is for. It needs TensorRT, and one of the two:
# - avcompress (Python 3.10 or newer) with numpy, onnx, pydantic, pyyaml, rich and typer, which checks every layer;
# - trtexec, which TensorRT brings: for devices with an older Python. It checks nothing.
set -eu
cd "$(dirname "$0")"
if command -v avcompress >/dev/null 2>&1; then
    exec avcompress build . "$@"
fi
if python3 -c "import avcompress" >/dev/null 2>&1; then
    exec python3 -m avcompress build . "$@"
fi
"""
_NO_TRTEXEC = """echo "build.sh: expected avcompress, got none; pip install --no-deps avcompress, and {reason}" >&2
exit 3
"""
_TRTEXEC = """trtexec=$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)
if [ ! -x "$trtexec" ]; then
    echo "build.sh: expected avcompress or trtexec, got neither; install TensorRT" >&2
    exit 3
fi
help=$("$trtexec" --help 2>&1 || true)
has() {{ case "$help" in *"$1"*) return 0 ;; *) return 1 ;; esac; }}
mkdir -p engine
set -- --onnx={network} --saveEngine=engine/model.engine \\
    --profilingVerbosity=detailed --exportLayerInfo=engine/inspector.json
{lines}if has --skipInference; then set -- "$@" --skipInference; elif has --buildOnly; then set -- "$@" --buildOnly; fi
exec "$trtexec" "$@"
"""
# Scales are those of any version, but a cache of another one is ignored: trtexec then calibrates on random numbers.
_CACHE = """case "$help" in
*"[TensorRT v"[0-9]*) version=${help#*"[TensorRT v"} ;;
*)
    echo "build.sh: expected a trtexec that tells its version, got none; pip install --no-deps avcompress" >&2
    exit 3
    ;;
esac
sed "1s/^TRT-[0-9]*-/TRT-${version%%]*}-/" calibration.cache >engine/calibration.cache"""


def build_script(network: str, settings: BuildSettings, quantized: bool) -> str:
    """The text of build.sh.

    Args:
        network: its file's name in the folder.
        settings: TensorRT's.
        quantized: whether the network holds Q/DQ.
    """
    reason = _beyond_trtexec(settings)
    if reason:
        return _HEAD + _NO_TRTEXEC.format(reason=reason)
    lines = "".join(f"{line}\n" for line in _arguments(settings, quantized))
    return _HEAD + _TRTEXEC.format(network=shlex.quote(network), lines=lines)


def _beyond_trtexec(settings: BuildSettings) -> str:
    """Why trtexec cannot do it; "" where it can."""
    if settings.module == "tensorrt_rtx":
        return "the module tensorrt_rtx"
    if len(settings.profiles) > 1:
        return "TensorRT's Python module: trtexec takes one --shapes only"
    if any(mark in name for name in settings.precisions for mark in ",:*"):
        return "TensorRT's Python module: trtexec takes no layer names with , : or *"
    return ""


def _arguments(settings: BuildSettings, quantized: bool) -> Iterator[str]:
    """Shell lines that add trtexec's options; an option that some version lacks is asked for in its help."""
    if settings.dialect in {"auto", "strong"}:
        yield 'if has --stronglyTyped; then set -- "$@" --stronglyTyped'
        if settings.dialect == "auto":  # TensorRT 8; 11 has neither option
            yield f'elif has --fp16; then set -- "$@" --fp16{" --int8" if quantized else ""}'
        yield "fi"
    if settings.dialect == "dla-implicit":
        types = '"--layerOutputTypes=$(cat layer_output_types.txt)"'
        yield f'if [ -f layer_output_types.txt ]; then set -- "$@" {types}; fi'
    if settings.calibration_cache:
        yield _CACHE
    given = [*_typing(settings), *_sizes(settings), *_switches(settings)]
    for profile in settings.profiles:
        given += _shapes(profile)
    if given:
        yield f'set -- "$@" {shlex.join(given)}'


def _typing(settings: BuildSettings) -> Iterator[str]:
    names = {"fp16": "--fp16", "int8": "--int8", "bf16": "--bf16", "obey": "--precisionConstraints=obey"}
    yield from (names[flag] for flag in settings.flags)
    if settings.precisions:
        yield f"--layerPrecisions={','.join(f'{name}:{kind}' for name, kind in settings.precisions.items())}"
    if settings.calibration_cache:
        yield "--calib=engine/calibration.cache"


def _sizes(settings: BuildSettings) -> Iterator[str]:
    if settings.workspace_mb is not None:
        yield f"--memPoolSize=workspace:{settings.workspace_mb}"
    if settings.optimization_level is not None:
        yield f"--builderOptimizationLevel={settings.optimization_level}"


def _switches(settings: BuildSettings) -> Iterator[str]:
    if settings.version_compatible:
        yield "--versionCompatible"
    if settings.hardware_compatible:
        yield "--hardwareCompatibilityLevel=ampere+"
    if settings.dla_core is not None:
        yield f"--useDLACore={settings.dla_core}"
        if settings.dla_fallback == "list":
            yield "--allowGPUFallback"


def _shapes(profile: Profile) -> Iterator[str]:
    for option, which in (("minShapes", "minimum"), ("optShapes", "optimum"), ("maxShapes", "maximum")):
        shapes = ",".join(f"{name}:{'x'.join(map(str, getattr(each, which)))}" for name, each in profile.items())
        yield f"--{option}={shapes}"
