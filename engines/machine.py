"""What this machine offers an engine: the runtime's version, the system, the GPU."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from avcompress.recipe import Engine, RtxEngine
from avcompress.spec import MissingError
from engines.manifest import Gpu, Manifest, system_name
from engines.tensorrt.device import find_device

_PORTABLE = frozenset({"ort", "openvino"})
_PACKAGES = {"ort": "onnxruntime", "openvino": "openvino", "trt_rtx": "tensorrt_rtx", "trt": "tensorrt"}


class Machine(NamedTuple):
    """What decides whether an engine that was built elsewhere may run here.

    Attributes:
        versions: of the packages that run it, as the builder recorded them.
        system: operating system and processor.
        gpu: None where there is none.
    """

    versions: Mapping[str, str]
    system: str
    gpu: Gpu | None


def needs_rebuild(manifest: Manifest, machine: Machine) -> str | None:
    """Why an engine has to be built anew on a machine; None when it runs there as it is.

    An engine of ONNX Runtime or OpenVINO would load in other versions, but was not measured there. A machine without a
    GPU gets None: building anew would not help it.

    Source: TensorRT's support matrix, "Engine Portability".
    """
    for package, version in machine.versions.items():
        built = manifest.versions.get(package, "an unknown version")
        if built != version:
            return f"built with {package} {built}, this machine has {version}"
    if manifest.backend in _PORTABLE:
        return None
    if manifest.system != machine.system:
        return f"built on {manifest.system}, this machine is {machine.system}"
    return _other_gpu(manifest, machine.gpu) if machine.gpu else None


def _other_gpu(manifest: Manifest, gpu: Gpu) -> str | None:
    own = f"sm{gpu.compute_capability.replace('.', '')}"
    if isinstance(manifest.engine, RtxEngine):
        compiled = manifest.engine.compute_capabilities
        return None if own in compiled else f"built for {', '.join(compiled)}, this machine's {gpu.name} is {own}"
    if manifest.gpu is None:
        return f"built for an unknown GPU, this machine has {gpu.name}"
    built = (manifest.gpu.name, manifest.gpu.compute_capability)
    if built != (gpu.name, gpu.compute_capability):
        return f"built on {built[0]} (compute capability {built[1]}), this machine has {gpu.name} ({own})"
    return None


def local_machine(engine: Engine) -> Machine:
    """This machine, as far as an engine's backend is concerned; raises MissingError when it lacks the backend."""
    from engines.build import require

    require(engine)
    package = _PACKAGES[engine.backend]
    gpu = None if engine.backend in _PORTABLE else local_gpu()
    return Machine({package: _version(importlib.import_module(package))}, system_name(), gpu)


def building_gpu(engine: Engine) -> Gpu | None:
    """The GPU that an engine is built on; None for those that are built without one."""
    return None if engine.backend in _PORTABLE or isinstance(engine, RtxEngine) else local_gpu()


def _version(module: Any) -> str:
    return str(module.get_version() if hasattr(module, "get_version") else module.__version__)


def local_gpu() -> Gpu | None:
    """The first GPU of this machine, by the driver's own library; None where there is none."""
    try:
        return Gpu(**asdict(find_device()))
    except MissingError:
        return None
