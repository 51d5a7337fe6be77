"""What a build is told: every setting by what this TensorRT has, never by its version.

Nothing here is silently dropped: what the module lacks is refused with what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avcompress.spec import OutputError
from engines.dialects.calibration_cache import version_number
from engines.tensorrt.device import find_device
from engines.tensorrt.settings import BuilderFlag, BuildSettings, Profile
from engines.tensorrt.timing_cache import Key, cache_key, cache_path, read_cache, write_cache

_FLAGS: Mapping[BuilderFlag, str] = {
    "fp16": "FP16",
    "int8": "INT8",
    "bf16": "BF16",
    "obey": "OBEY_PRECISION_CONSTRAINTS",
}
_PRECISIONS = {"int8": "INT8", "fp16": "HALF", "fp32": "FLOAT"}
_SHOWN = 5
_CACHE_HEADER = re.compile(rb"\ATRT-\d+-(?=EntropyCalibration2)")


class RefusedError(Exception):
    """The build ended at this stage, for these reasons: message; node, op, index and remedy where they are known."""

    def __init__(self, stage: str, *errors: Mapping[str, str]) -> None:
        super().__init__(stage)
        self.stage = stage
        self.errors = [dict(error) for error in errors]


def describe(error: Any) -> dict[str, str]:
    """A parser's error; TensorRT 8 does not name the node, but its place in the graph."""
    if hasattr(error, "node_name"):
        return {"message": error.desc(), "node": error.node_name(), "op": error.node_operator()}
    return {"message": error.desc(), "index": str(error.node())}


@dataclass
class Setup:
    """A configuration, with what must live as long as it does.

    Attributes:
        notes: lines for people.
    """

    config: Any
    notes: list[str] = field(default_factory=list)
    calibrator: Any = None
    timings: tuple[Path, Key] | None = None

    def check_calibration(self) -> None:
        """Raise RefusedError when TensorRT did not take the calibration cache, and asked for images instead."""
        if self.calibrator is not None and self.calibrator.asked:
            raise RefusedError(
                "calibrate",
                {
                    "message": "TensorRT did not take the calibration cache, and asked for images",
                    "remedy": "export the folder again: a cache begins with TRT-VERSION-EntropyCalibration2",
                },
            )

    def keep_timings(self) -> None:
        """Write what was timed into the timing cache, where there is one."""
        if self.timings is None:
            return
        cache = self.config.get_timing_cache()
        content = cache.serialize() if cache is not None else None
        if content is None:
            self.notes.append("timing cache: TensorRT gave none back, nothing was kept")
            return
        try:
            write_cache(*self.timings, bytes(memoryview(content)))
        except OutputError as error:  # the engine is good: only the next build is slower
            self.notes.append(f"timing cache: not kept: {error}")


def create_network(trt: Any, builder: Any, settings: BuildSettings) -> Any:
    """An empty network of the dialect's kind; raises RefusedError when this module has no such kind."""
    kinds = trt.NetworkDefinitionCreationFlag
    strong = hasattr(kinds, "STRONGLY_TYPED")
    weak = hasattr(trt.BuilderFlag, "FP16")
    if settings.dialect == "strong" and not strong:
        raise RefusedError("configure", _lacks(trt, "strongly typed networks", "export for the weak dialect"))
    if settings.dialect in {"weak", "dla-implicit"} and not weak:
        raise RefusedError("configure", _lacks(trt, "weakly typed networks", "export for the strong dialect"))
    flags = 1 << int(kinds.STRONGLY_TYPED) if is_strong(trt, settings) else 0
    if hasattr(
        kinds, "EXPLICIT_BATCH"
    ):  # TensorRT 8 parses no ONNX without it; 11 has no other kind, and no name for it
        flags |= 1 << int(kinds.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    if network is None:
        raise RefusedError("configure")
    return network


def is_strong(trt: Any, settings: BuildSettings) -> bool:
    """Whether the network's types alone decide: as the dialect says, or else wherever TensorRT knows it."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and settings.dialect in {"auto", "strong"}


def configure(trt: Any, builder: Any, network: Any, settings: BuildSettings) -> Setup:
    """Tell the builder all that the settings ask; raises RefusedError for what it lacks or does not accept."""
    setup = Setup(builder.create_builder_config())
    if setup.config is None:
        raise RefusedError("configure")
    setup.config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_targets(trt, setup.config, settings.compute_capabilities)
    _set_limits(trt, setup, settings)
    _set_compatibility(trt, setup.config, settings)
    _set_types(trt, network, setup, settings)
    _set_profiles(builder, network, setup.config, settings.profiles)
    if settings.dla_core is not None:
        _use_dla(trt, builder, network, setup, settings)
    if settings.timing_cache:
        _use_timings(trt, setup, settings)
    return setup


def _lacks(trt: Any, what: str, remedy: str) -> dict[str, str]:
    return {"message": f"{trt.__name__} {trt.__version__} has no {what}", "remedy": remedy}


def _set_targets(trt: Any, config: Any, names: tuple[str, ...]) -> None:
    if not names:
        return
    if not hasattr(config, "set_compute_capability"):
        raise RefusedError("configure", _lacks(trt, "builds for other GPUs", "leave the compute capabilities out"))
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        known = getattr(trt.ComputeCapability, name.upper(), None)
        if known is None or not config.set_compute_capability(known, index):
            raise RefusedError("configure", _lacks(trt, f"compute capability {name}", "leave it out"))


def _set_limits(trt: Any, setup: Setup, settings: BuildSettings) -> None:
    if settings.workspace_mb is not None:
        wanted = settings.workspace_mb << 20
        setup.config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wanted)
        got = setup.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        if got != wanted:
            setup.notes.append(f"workspace: {settings.workspace_mb} MB asked, TensorRT took {got >> 20} MB")
    if settings.optimization_level is not None:
        if not hasattr(setup.config, "builder_optimization_level"):
            raise RefusedError("configure", _lacks(trt, "optimization levels", "leave the optimization level out"))
        setup.config.builder_optimization_level = settings.optimization_level


def _set_compatibility(trt: Any, config: Any, settings: BuildSettings) -> None:
    if settings.version_compatible:
        if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
            raise RefusedError("configure", _lacks(trt, "version-compatible engines", "build for each version"))
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatible:
        # TensorRT-RTX has the attribute, and ignores it with a warning: it names its targets instead.
        if not hasattr(trt, "HardwareCompatibilityLevel") or hasattr(trt, "ComputeCapability"):
            remedy = "name the compute capabilities" if hasattr(trt, "ComputeCapability") else "build for each GPU"
            raise RefusedError("configure", _lacks(trt, "hardware-compatible engines", remedy))
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


# --- types


def _set_types(trt: Any, network: Any, setup: Setup, settings: BuildSettings) -> None:
    for flag in _flags(trt, network, settings):
        name = _FLAGS[flag]
        if not hasattr(trt.BuilderFlag, name):
            raise RefusedError("configure", _lacks(trt, f"builder flag {name}", f"export without {flag}"))
        setup.config.set_flag(getattr(trt.BuilderFlag, name))
    # Precisions come with that flag: where there is none, it was refused just now.
    if settings.precisions and hasattr(trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS"):
        _set_precisions(trt, network, setup, settings)
    if settings.calibration_cache:
        if not hasattr(trt, "IInt8EntropyCalibrator2"):
            raise RefusedError("configure", _lacks(trt, "calibration caches", "export for the strong dialect"))
        cache = _of_this_version(Path(settings.calibration_cache).read_bytes(), str(trt.__version__))
        setup.calibrator = _calibrator(trt, cache)
        setup.config.int8_calibrator = setup.calibrator


def _flags(trt: Any, network: Any, settings: BuildSettings) -> tuple[BuilderFlag, ...]:
    """The settings' flags; those that a weakly typed network with Q/DQ needs where the dialect was left to us."""
    if settings.dialect != "auto" or is_strong(trt, settings):
        return settings.flags
    quantized = any(layer.type == trt.LayerType.QUANTIZE for layer in _layers(network))
    return ("fp16", "int8") if quantized else ("fp16",)


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _set_precisions(trt: Any, network: Any, setup: Setup, settings: BuildSettings) -> None:
    """Fix what single layers compute in; the parser calls a layer after its ONNX node."""
    left = dict(settings.precisions)
    implicit = settings.dialect == "dla-implicit"
    for layer in _layers(network):
        precision = left.pop(layer.name, None)
        if precision is None or (precision == "int8" and not implicit):  # where there are Q/DQ, they say what is INT8
            continue
        kind = getattr(trt.DataType, _PRECISIONS[precision])
        layer.precision = kind
        # What stays FP32 may have values too large for FP16. On DLA, an output of another type is a layer on the GPU.
        for index in range(layer.num_outputs if implicit or precision == "fp32" else 0):
            layer.set_output_type(index, kind)
    if left.keys() == settings.precisions.keys():
        raise RefusedError(
            "configure",
            {
                "message": f"no layer is called {_first(sorted(left))}, which the precisions name",
                "node": min(left),
                "remedy": "export the folder again: the precisions are of another network",
            },
        )
    if left:  # a node that the parser folded; a weighted one shows in the layer map
        setup.notes.append(f"precisions: no layer of their own have {', '.join(sorted(left))}")


def _of_this_version(cache: bytes, version: str) -> bytes:
    """The cache under the version at hand: the scales are those of any, but another one's first line is not taken."""
    return _CACHE_HEADER.sub(f"TRT-{version_number(version)}-".encode(), cache, count=1)


def _calibrator(trt: Any, cache: bytes) -> Any:
    class Cache(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        """Hands a calibration cache over, and has no images."""

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.asked = False

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:  # noqa: ARG002
            self.asked = True

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, cache: Any) -> None:
            """Keep nothing: what was read is what there is."""

    return Cache()


# --- shapes, DLA, timings


def _set_profiles(builder: Any, network: Any, config: Any, profiles: tuple[Profile, ...]) -> None:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in inputs:
        if tensor.is_shape_tensor:
            raise RefusedError(
                "profile",
                {
                    "message": f"input {tensor.name!r} holds a shape, not values",
                    "node": tensor.name,
                    "remedy": "export the network with that shape as a constant",
                },
            )
    dynamic = [tensor.name for tensor in inputs if -1 in tuple(tensor.shape)]
    for number, shapes in enumerate(profiles, start=1):
        profile = builder.create_optimization_profile()
        for name in dynamic:
            profile.set_shape(name, shapes[name].minimum, shapes[name].optimum, shapes[name].maximum)
        if dynamic and config.add_optimization_profile(profile) == -1:
            raise RefusedError(
                "profile", {"message": f"optimization profile {number} is not valid", "remedy": "mend --shapes"}
            )


def _use_dla(trt: Any, builder: Any, network: Any, setup: Setup, settings: BuildSettings) -> None:
    cores = builder.num_DLA_cores if hasattr(builder, "num_DLA_cores") else 0
    if settings.dla_core is None or settings.dla_core >= cores:
        raise RefusedError(
            "configure",
            {
                "message": f"DLA core {settings.dla_core} was asked for; this GPU and TensorRT have {cores}",
                "remedy": f"name a core from 0 to {cores - 1}" if cores else "leave DLA out",
            },
        )
    config = setup.config
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = settings.dla_core
    # Constants become part of the layers that read them.
    wanted = (layer for layer in _layers(network) if layer.type != trt.LayerType.CONSTANT)
    left = [layer.name for layer in wanted if not config.can_run_on_DLA(layer)]
    if not left:
        return
    if settings.dla_fallback == "refuse":
        raise RefusedError(
            "configure",
            {
                "message": f"{len(left)} of {network.num_layers} layers cannot run on DLA: {_first(left)}",
                "node": left[0],
                "remedy": "change them, or let them run on the GPU: --dla-fallback list",
            },
        )
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    setup.notes.append(f"DLA: {len(left)} of {network.num_layers} layers run on the GPU: {', '.join(left)}")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" (and {len(names) - _SHOWN} more)" if names[_SHOWN:] else "")


def _use_timings(trt: Any, setup: Setup, settings: BuildSettings) -> None:
    if settings.module != "tensorrt":
        setup.notes.append("timing cache: TensorRT-RTX has none, it compiles without timing")
        return
    key = cache_key(find_device(), str(trt.__version__))
    path = cache_path(Path(settings.timing_cache), key)
    content, note = read_cache(path, key)
    config = setup.config
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        note = f"timing cache: {path.name} ignored (TensorRT does not take it), timed anew"
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, False):
            raise RefusedError("configure", {"message": "no timing cache can be made", "remedy": "leave it out"})
    setup.notes.append(note)
    setup.timings = path, key
