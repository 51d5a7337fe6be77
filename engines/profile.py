"""What is known of a machine that engines are built for, and of the software that it runs.

The data is in profiles/*.yaml, one file a machine; `engines.profile_load` reads them, and users' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt

from avcompress.frozen import Model
from avcompress.spec import RecipeError
from engines.capabilities import Target

Dialect = Literal["strong", "weak", "dla-implicit"]
"""How a quantized network is put to a builder: strongly typed with explicit Q/DQ; weakly typed with Q/DQ and flags;
or without Q/DQ, with a calibration cache and a precision for each layer."""

NumberType = Literal["fp32", "fp16", "bf16", "fp8", "fp4", "int8", "int4"]
NUMBER_TYPES: tuple[NumberType, ...] = get_args(NumberType)
Runtime = Literal["tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Version = Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)*$")]
Rates = dict[NumberType, PositiveFloat]
Alignment = dict[NumberType, PositiveInt]


class Platform(Model):
    """What runs on a machine: a release of JetPack or DRIVE OS, or an inference library of one version."""

    name: Name
    runtime: Runtime = "tensorrt"
    tensorrt: Version | None = Field(None, description="version, in quotes; of TensorRT only")
    cuda: Version | None = Field(None, description="version, in quotes")
    dla: Literal["implicit", "strong"] | None = Field(
        None, description="how INT8 networks get onto the DLA: implicit up to TensorRT 10.7, strong from 11.4 on"
    )
    source: str | None = Field(None, description="where the versions are from")


class Dla(Model):
    """The deep learning accelerators of a machine, all cores together."""

    cores: PositiveInt
    peak: Rates = Field(default_factory=dict, description="TOPS or TFLOPS of all cores, dense")
    channel_alignment: Alignment = Field(default_factory=dict, description="channels are best a multiple of this")


class Profile(Model):
    """A machine.

    Peaks count a multiply-accumulate as two operations, in 10^12 a second, dense: without structured sparsity. FP16 and
    BF16 accumulate in FP32 where a source tells them apart.
    """

    name: Name
    title: str = Field(description="for people")
    kind: Literal["gpu", "cpu"]
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")] | None = Field(
        None, description="of the GPU, in quotes"
    )
    platforms: tuple[Platform, ...] = Field(min_length=1, description="the newest first; the first one is the default")
    precisions: tuple[NumberType, ...] = Field(min_length=1, description="that it computes products in")
    dla: Dla | None = None
    memory_gb: PositiveFloat
    bandwidth_gb_s: PositiveFloat = Field(description="of the memory, peak")
    peak: Rates = Field(default_factory=dict, description="TOPS or TFLOPS of the GPU or CPU, dense")
    channel_alignment: Alignment = Field(default_factory=dict, description="channels are best a multiple of this")
    sources: dict[str, str] = Field(default_factory=dict, description="by figure, as `peak` or `peak.int8`: from where")
    derived: dict[str, str] = Field(default_factory=dict, description="by figure: how it follows from its source")
    unverified: tuple[str, ...] = Field((), description="figures that nobody has looked up in their source")

    @property
    def dla_cores(self) -> int:
        """How many DLA cores there are."""
        return self.dla.cores if self.dla else 0

    @property
    def machine(self) -> int | None:
        """The compute capability as a number: 87 for "8.7"."""
        return int(self.compute_capability.replace(".", "")) if self.compute_capability else None


@dataclass(frozen=True)
class Chosen:
    """A machine with the platform that it runs."""

    profile: Profile
    platform: Platform

    @property
    def name(self) -> str:
        """Both names: orin-agx@jetpack-6.2."""
        return f"{self.profile.name}@{self.platform.name}"

    @property
    def capabilities(self) -> Target:
        """What it takes of the formats, by the name that `engines.capabilities` has for it."""
        match self.platform.runtime, major(self.platform.tensorrt):
            case "tensorrt", 8:
                return "tensorrt-8"
            case "tensorrt", 10:
                return "tensorrt-10"
            case "tensorrt", _:
                return "tensorrt-11"
            case "tensorrt-rtx", _:
                return "tensorrt-rtx"
            case "openvino", _:
                return "openvino"
            case _:
                return "onnxruntime"

    def dialect(self, dla: bool = False) -> Dialect:
        """How a network is put to the builder; a CPU's runtimes take explicit Q/DQ, as a strongly typed network has.

        Raises RecipeError in one line where a DLA is asked for that the machine, or its platform, has not.
        """
        if dla:
            return self._dla_dialect()
        return "weak" if self.capabilities == "tensorrt-8" else "strong"

    def _dla_dialect(self) -> Dialect:
        if self.profile.dla is None:
            raise RecipeError(f"{self.name}: expected a DLA, {self.profile.title} has none; build for the GPU or CPU")
        match self.platform.dla:
            case "implicit":
                return "dla-implicit"
            case "strong":
                return "strong"
            case None:
                able = [each.name for each in self.profile.platforms if each.dla]
                instead = f"use {self.profile.name}@{able[0]}, or build for the GPU" if able else "build for the GPU"
                version = f"TensorRT {self.platform.tensorrt}" if self.platform.tensorrt else self.platform.runtime
                raise RecipeError(
                    f"{self.name}: expected a platform that builds for the DLA, {version} of {self.platform.name} "
                    f"does not; {instead}"
                )


def release(version: str) -> tuple[int, int]:
    """Major and minor number of a version."""
    first, second = version.split(".")[:2]
    return int(first), int(second)


def major(version: str | None) -> int | None:
    """The first number of a version, where there is one."""
    return release(version)[0] if version else None
