"""What is asked of one build: plain values, which travel to the child process and to a device as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

Module = Literal["tensorrt", "tensorrt_rtx"]
"""The Python module that builds: TensorRT 8.5 to 11, or TensorRT for RTX."""
Dialect = Literal["auto", "strong", "weak", "dla-implicit"]
"""How the network says its precisions: by its types alone (strong); by Q/DQ and builder flags (weak, TensorRT 8); by a
calibration cache and precisions per layer (dla-implicit). auto: strong where the builder knows it, else weak."""
BuilderFlag = Literal["fp16", "int8", "bf16", "obey"]
DlaFallback = Literal["refuse", "list"]
Dims = tuple[PositiveInt, ...]
Level = Annotated[int, Field(ge=0, le=5)]


class _Values(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputShapes(_Values):
    """The shapes of one input in a profile: the smallest, the one to optimize for, the largest."""

    minimum: Dims
    optimum: Dims
    maximum: Dims


Profile = dict[str, InputShapes]
"""An optimization profile: shapes by input."""


class BuildSettings(_Values):
    """One build of TensorRT or TensorRT-RTX.

    Attributes:
        compute_capabilities: of the GPUs that TensorRT-RTX compiles for, as sm86; TensorRT builds for this machine's.
        flags: of the builder, where the network is weakly typed.
        precisions: what single ONNX nodes must compute in, where flags hold `obey`. With Q/DQ in the graph, these alone
            decide what is INT8.
        calibration_cache: the file, in TensorRT's own format; "" for none.
        profiles: for inputs of dynamic shape; shapes are checked against the graph before the builder sees them.
        workspace_mb: GPU memory that a layer may use while it works; None: what TensorRT takes by itself, all of it.
        optimization_level: 0 builds fastest, 5 searches longest; None: TensorRT's own, 3.
        version_compatible: an engine for later TensorRT versions of the same major one, too.
        hardware_compatible: an engine for Ampere GPUs and all newer ones.
        dla_core: which one; None: the GPU.
        dla_fallback: layers that DLA cannot run: refuse the build, or run them on the GPU and list them.
        timing_cache: a folder, to keep what was timed; "" for none.
        memory_limit_mb: of the compiler's own process, not of the GPU.
    """

    module: Module
    compute_capabilities: tuple[str, ...] = ()
    dialect: Dialect = "auto"
    flags: tuple[BuilderFlag, ...] = ()
    precisions: dict[str, Literal["int8", "fp16", "fp32"]] = Field(default_factory=dict)
    calibration_cache: str = ""
    profiles: tuple[Profile, ...] = ()
    workspace_mb: PositiveInt | None = None
    optimization_level: Level | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: NonNegativeInt | None = None
    dla_fallback: DlaFallback = "refuse"
    timing_cache: str = ""
    timeout_s: PositiveFloat = 3600.0
    memory_limit_mb: PositiveInt | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> BuildSettings:
        if self.module == "tensorrt_rtx" and not self.compute_capabilities:
            raise ValueError("compute_capabilities: expected at least one for tensorrt_rtx, got none; add sm86")
        if self.module == "tensorrt" and self.compute_capabilities:
            raise ValueError(
                "compute_capabilities: expected none for tensorrt, which builds for this machine's GPU, got "
                f"{', '.join(self.compute_capabilities)}; leave them out"
            )
        if self.dialect in {"auto", "strong"} and (self.flags or self.precisions or self.calibration_cache):
            raise ValueError(
                f"dialect {self.dialect}: expected no flags, precisions or calibration cache, a network's types say "
                "all, got some; use dialect weak or dla-implicit"
            )
        if self.precisions and "obey" not in self.flags:
            raise ValueError("flags: expected obey where precisions are given, got none; add it")
        return self
