"""From a finished network and a target to what the target's builder is given: network, files, settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx
from typing_extensions import assert_never

from avcompress.spec import EngineBuildError, ModelError, RecipeError, TensorRange
from engines.capabilities import Target, capabilities
from engines.dialects import Dialect, DialectSettings, Expressed, express
from engines.profile import Chosen
from engines.profile_load import load_profile

Backend = Literal["trt", "trt_rtx", "openvino", "ort"]
FloatType = Literal["fp32", "fp16", "bf16"]
_BACKENDS: Mapping[str, Backend] = {
    "tensorrt": "trt",
    "tensorrt-rtx": "trt_rtx",
    "openvino": "openvino",
    "onnxruntime": "ort",
}
_FLOATS: Mapping[int, FloatType] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
_RTX_GPUS = ("sm86", "sm89")


@dataclass(frozen=True)
class Wanted:
    """What an engine is for.

    Attributes:
        chosen: a machine with its platform; None where only a backend is named.
        dialect: None: whichever the builder knows; the network is left as it is.
        lint: the target that the network is checked for.
        words: for people.
    """

    backend: Backend
    chosen: Chosen | None
    dialect: Dialect | None
    lint: Target
    words: str


def choose(backend: Backend | None, target: str | None, folders: tuple[Path, ...], asked: Mapping[str, Any]) -> Wanted:
    """What the command line asks for; raises RecipeError where a machine and a backend do not go together.

    Args:
        backend: of the command line.
        target: a machine, with its platform or without.
        folders: with users' own profiles.
        asked: TensorRT's settings of the command line; `dialect` and `dla_core` count here.
    """
    chosen = load_profile(target, folders) if target else None
    own = _BACKENDS[chosen.platform.runtime] if chosen else None
    if chosen and backend and backend != own:
        raise RecipeError(
            f"--backend: expected {own} for {chosen.name}, which runs {chosen.platform.runtime}, got {backend}; leave "
            "it out, or name another platform"
        )
    wanted = backend or own
    if wanted is None:
        raise RecipeError(
            "--target: expected a machine that `avcompress targets` lists, or --backend, got none; give one"
        )
    if chosen:
        _refuse_core(chosen, asked.get("dla_core"))
    dialect = _dialect(wanted, chosen, asked)
    words = f"{chosen.name} ({chosen.profile.title})" if chosen else _words(wanted, asked)
    return Wanted(wanted, chosen, dialect, chosen.capabilities if chosen else _lint_target(wanted, dialect), words)


def _refuse_core(chosen: Chosen, core: int | None) -> None:
    """Raise RecipeError for the number of a DLA core that a machine with a DLA has not."""
    cores = chosen.profile.dla_cores
    if core is not None and 0 < cores <= core:
        known = "0" if cores == 1 else f"0 to {cores - 1}"
        raise RecipeError(
            f"{chosen.name}: expected a DLA core of {chosen.profile.title} ({known}), got {core}; name one of them"
        )


def _dialect(backend: Backend, chosen: Chosen | None, asked: Mapping[str, Any]) -> Dialect | None:
    stated: Dialect | Literal["auto"] = asked.get("dialect", "auto")
    if backend not in {"trt", "trt_rtx"}:
        return None
    if stated != "auto":
        return stated
    if chosen:
        return chosen.dialect(dla=asked.get("dla_core") is not None)
    return "strong" if backend == "trt_rtx" else None


def _lint_target(backend: Backend, dialect: Dialect | None) -> Target:
    match backend:
        case "ort":
            return "onnxruntime"
        case "openvino":
            return "openvino"
        case "trt_rtx":
            return "tensorrt-rtx"
        case "trt":
            return "tensorrt-8" if dialect in {"weak", "dla-implicit"} else "tensorrt-10"
        case _:
            assert_never(backend)


def _words(backend: Backend, asked: Mapping[str, Any]) -> str:
    match backend:
        case "trt_rtx":
            return f"TensorRT for RTX, {', '.join(asked.get('compute_capabilities', _RTX_GPUS))}"
        case "trt":
            return f"TensorRT, {'DLA' if asked.get('dla_core') is not None else 'GPU'} of the machine that builds it"
        case _:
            return backend


def gpus(wanted: Wanted) -> tuple[str, ...]:
    """The GPUs that TensorRT-RTX compiles for: the machine's, or those that are most about."""
    machine = wanted.chosen.profile.machine if wanted.chosen else None
    return (f"sm{machine}",) if machine else _RTX_GPUS


def expressed(
    model: onnx.ModelProto,
    wanted: Wanted,
    float_type: FloatType | None,
    ranges: Mapping[str, TensorRange],
    fallback: str,
) -> Expressed | None:
    """The network in the target's dialect; None where it is given as it is. Raises ModelError.

    Args:
        model: with named nodes.
        wanted: what it is for.
        float_type: of what is not quantized; None: as the network has it, and FP16 on DLA.
        ranges: what calibration saw, by tensor: on DLA, a tensor without Q/DQ and range is FP16.
        fallback: refuse or list: layers that DLA cannot take.
    """
    if wanted.dialect is None:
        return None
    version = wanted.chosen.platform.tensorrt if wanted.chosen else None
    settings = DialectSettings(
        dialect=wanted.dialect,
        newest_opset=capabilities(wanted.lint).newest_opset,
        float_type=float_type or _own_float_type(model, wanted.dialect),
        ranges=ranges,
        gpu_fallback="list" if fallback == "list" else "refuse",
        target=wanted.lint,
    )
    return express(model, replace(settings, tensorrt=version) if version else settings)


def _own_float_type(model: onnx.ModelProto, dialect: Dialect) -> FloatType:
    if dialect == "dla-implicit":
        return "fp16"
    types = {tensor.data_type for tensor in model.graph.initializer}
    return next((name for kind, name in _FLOATS.items() if kind in types), "fp32")


def typing_of(found: Expressed) -> dict[str, Any]:
    """What the builder is told of a dialect's network, as settings of a build.

    Beside Q/DQ only the layers that must stay FP32 are told: the rest follows from the graph.
    """
    implicit = found.dialect == "dla-implicit"
    told = {name: kind for name, kind in found.precisions.items() if implicit or kind == "fp32"}
    return {
        "dialect": found.dialect,
        "flags": found.flags,
        "precisions": told if "obey" in found.flags else {},
    }


def in_words(source: Path, error: ModelError) -> EngineBuildError:
    """The refusal of a dialect, as a build's, with the file that it is about."""
    reason = str(error).removeprefix("ONNX graph: ")
    return EngineBuildError("check", f"{source.name}: {reason}. --as-is builds all the same")
