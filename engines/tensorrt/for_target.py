"""A recipe's engine `trt`: its network in the dialect of the target, or of the TensorRT that is here, and built."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

from avcompress.files import private_folder
from avcompress.recipe import TrtEngine
from avcompress.spec import ModelError, RecipeError, Track, untracked
from engines.built import Built
from engines.dialects import Dialect, Expressed
from engines.dialects.dialect import CACHE
from engines.dialects.prepare import read_quantized
from engines.expressing import Wanted, choose, expressed, in_words, typing_of
from engines.onnx_graph import name_nodes
from engines.profile_load import load_profile
from engines.tensorrt.build import build_tensorrt, trt_settings
from engines.tensorrt.configure import is_strong
from engines.tensorrt.settings import BuildSettings


def build_trt(onnx: Path, folder: Path, engine: TrtEngine, track: Track = untracked) -> Built:
    """Build what a recipe asks of TensorRT; see build_tensorrt. A CUDA device is known to be there."""
    found = _expressed(onnx, engine)
    with private_folder() as place:
        (place / onnx.name).write_bytes(found.model.SerializeToString())
        for name, content in found.files.items():
            (place / name).write_bytes(content)
        cache = {"calibration_cache": str(place / CACHE)} if CACHE in found.files else {}
        settings = BuildSettings.model_validate(trt_settings(engine).model_dump() | typing_of(found) | cache)
        built = build_tensorrt(place / onnx.name, folder, settings, track)
    return replace(built, notes=(*found.notes, *built.notes))


def wanted_by(engine: TrtEngine) -> Wanted:
    """What an engine with a target is for; raises RecipeError for one that does not run TensorRT, or lacks its DLA."""
    asked = {} if engine.dla is None else {"dla_core": engine.dla}
    if engine.target is None:
        return choose("trt", None, (), asked | {"dialect": _own_dialect(engine.dla is not None)})
    chosen = load_profile(engine.target)
    if chosen.platform.runtime != "tensorrt":
        raise RecipeError(
            f"{chosen.name}: expected a platform that runs TensorRT, got {chosen.platform.runtime}; name another of "
            f"`avcompress targets {chosen.profile.name}`"
        )
    return choose("trt", engine.target, (), asked)


def _own_dialect(dla: bool) -> Dialect:
    """What the TensorRT of this machine takes, by what it has."""
    trt = importlib.import_module("tensorrt")
    if dla:
        return "dla-implicit" if hasattr(trt, "IInt8EntropyCalibrator2") else "strong"
    return "strong" if is_strong(trt, BuildSettings(module="tensorrt")) else "weak"


def _expressed(onnx: Path, engine: TrtEngine) -> Expressed:
    model = name_nodes(read_quantized(onnx))
    try:
        found = expressed(model, wanted_by(engine), None, {}, engine.dla_fallback)
    except ModelError as error:
        raise in_words(onnx, error) from error
    if found is None:
        raise AssertionError("TensorRT always has a dialect")
    return found
