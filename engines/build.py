"""The backends behind one pair of verbs: build an engine, open an engine."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path

from typing_extensions import assert_never

from avcompress.files import atomic_folder, refuse_full
from avcompress.recipe import Engine, OpenVinoEngine, OrtEngine, RtxEngine, TrtEngine
from avcompress.spec import EngineError, MissingError, Track, untracked
from engines.built import MODEL, Built
from engines.openvino import build_openvino, open_openvino
from engines.ort import build_ort, open_ort, require_providers
from engines.session import Session, one_line
from engines.tensorrt.build import build_rtx, build_tensorrt
from engines.tensorrt.device import find_device
from engines.tensorrt.session import TrtSettings, open_trt
from engines.tensorrt.settings import BuildSettings

__all__ = ["Asked", "Built", "build_engine", "open_engine", "require"]

Asked = Engine | BuildSettings
"""What can be built: an engine of a recipe, or TensorRT with all its settings."""

_ROOM_BYTES = 4 << 20
"""What an engine takes at least, beside the weights."""


def require(engine: Asked) -> None:
    """Raise MissingError when this machine lacks the engine's package, with the command that installs it, or a GPU."""
    match engine:
        case OrtEngine():
            _require_package("ort", "onnxruntime", "InferenceSession", "pip install onnxruntime")
            require_providers(engine.providers)
        case OpenVinoEngine():
            _require_package("openvino", "openvino", "Core", "pip install openvino")
        case RtxEngine() | BuildSettings(module="tensorrt_rtx"):
            # Ahead-of-time builds for other GPUs came with this class.
            _require_package("trt_rtx", "tensorrt_rtx", "ComputeCapability", 'pip install "avcompress[rtx]"')
        case TrtEngine() | BuildSettings():
            find_device()  # first: without a GPU, TensorRT may crash the process that touches it
            _require_package("trt", "tensorrt", "Builder", _INSTALL_TENSORRT)
        case _:
            assert_never(engine)


_INSTALL_TENSORRT = (
    'take the one of JetPack or DRIVE OS (apt install python3-libnvinfer), else pip install "avcompress[cuda]"'
)


def _require_package(backend: str, package: str, feature: str, install: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingError(f"{backend}: expected the package {package}, got nothing of that name; {install}")
    try:
        module = importlib.import_module(package)
    except Exception as error:  # a broken installation may raise anything
        raise MissingError(f"{backend}: expected {package} to load, got: {one_line(error)}; {install}") from error
    if not hasattr(module, feature):
        raise MissingError(f"{backend}: expected a {package} with {feature}, got an older one; {install} --upgrade")


def build_engine(onnx: Path, folder: Path, engine: Asked, track: Track = untracked) -> Built:
    """Build an engine into `folder`, which is there when it is whole, and as it was before on any failure.

    Raises EngineBuildError when the backend refuses the network, MissingError when this machine lacks the backend,
    OutputError when the disk is full. `track` follows the percents that TensorRT reports.
    """
    require(engine)
    with atomic_folder(folder) as temporary:
        try:
            built = _build(onnx, temporary, engine, track)
        except EngineError:
            # Backends blame the network, or nobody, when they cannot write, and may have cleared up what they wrote.
            refuse_full(folder.parent, _ROOM_BYTES + 2 * onnx.stat().st_size)
            raise
    return replace(built, folder=folder)


def _build(onnx: Path, folder: Path, engine: Asked, track: Track) -> Built:
    match engine:
        case OrtEngine():
            return build_ort(onnx, folder, engine)
        case OpenVinoEngine():
            return build_openvino(onnx, folder, engine)
        case RtxEngine():
            return build_rtx(onnx, folder, engine, track)
        case TrtEngine():
            # Not at the top: who only loads an engine needs no dialects.
            from engines.tensorrt.for_target import build_trt

            return build_trt(onnx, folder, engine, track)
        case BuildSettings():
            return build_tensorrt(onnx, folder, engine, track)
        case _:
            assert_never(engine)


def _open_rtx(path: Path) -> Session:
    try:
        return open_trt(path, package="tensorrt_rtx")
    except MissingError as error:
        raise MissingError(
            f"{path}: expected an RTX GPU, for which the engine is built ahead of time as a structure check, got: "
            f"{error}; open the openvino or ort engine"
        ) from error


def open_engine(built_folder: Path, engine: Engine) -> Session:
    """Load what `build_engine` built.

    Raises MissingError for an engine that this machine cannot run, EngineError when it does not load.
    """
    require(engine)
    match engine:
        case OrtEngine():
            return open_ort(built_folder / MODEL["ort"], engine.optimize, engine.threads, engine.providers)
        case OpenVinoEngine():
            return open_openvino(built_folder, engine)
        case RtxEngine():
            return _open_rtx(built_folder / MODEL["trt_rtx"])
        case TrtEngine():
            return open_trt(built_folder / MODEL["trt"], TrtSettings(dla_core=engine.dla))
        case _:
            assert_never(engine)
