"""What this machine is, and what is installed on it, for the report."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from validation.report import Machine

LIBRARIES = (
    "numpy",
    "onnx",
    "onnxruntime",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
)
RUNTIMES = ("onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")


def describe_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """The processor, the cores this process may use, the operating system."""
    # Not at the top: the report holds latencies, which are measured beside this package's logs.
    from validation.report import Machine

    return Machine(
        cpu=_cpu_model(cpuinfo),
        cores=_usable_cores(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def processors() -> dict[str, str]:
    """The models of the CPU and of the first GPU: a latency is of these alone."""
    from engines.machine import local_gpu

    gpu = local_gpu()
    return {"cpu": describe_machine().cpu, **({"gpu": gpu.name} if gpu is not None else {})}


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide figures, where they are installed."""
    installed = {name: next(iter(metadata.distributions(name=name)), None) for name in LIBRARIES}
    return {name: found.version for name, found in installed.items() if found is not None}


def runtime_versions() -> dict[str, str]:
    """Versions of the libraries that build and run engines."""
    return {name: version for name, version in library_versions().items() if name in RUNTIMES}


def _usable_cores() -> int:
    # A container or taskset may allow fewer cores than the machine has; macOS cannot tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model(cpuinfo: Path) -> str:
    if cpuinfo.is_file():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        by_name = {key.strip().lower(): value.strip() for key, value in fields.items()}
        # x86 says "model name", a Jetson's Arm kernel "Model" or only numbers.
        for key in ("model name", "model", "hardware"):
            if by_name.get(key, "").strip("0123456789"):
                return by_name[key]
    return platform.processor() or platform.machine()
