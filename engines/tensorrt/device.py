"""Is there a CUDA device? Asked of the driver, before TensorRT is touched: without one it crashes the process."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avcompress.spec import MissingError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_BYTES = 256
_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
_INSTEAD = (
    "build on the device that the engine is for (avcompress build ... --export-only makes a folder for it), or use "
    "backend trt_rtx, which builds anywhere for RTX GPUs"
)


@dataclass(frozen=True)
class Device:
    """A GPU: what it is, not which one of its kind.

    Attributes:
        compute_capability: as 8.7.
        driver: the CUDA version that the driver offers, and the driver's own version where it tells.
    """

    name: str
    compute_capability: str
    driver: str


def find_device(load: Callable[[str], Any] = ctypes.CDLL) -> Device:
    """The first CUDA device of this machine; raises MissingError with what to do where there is none.

    Args:
        load: opens a shared library.
    """
    try:
        driver = load("libcuda.so.1")
    except OSError as error:
        raise MissingError(f"trt: expected a CUDA device, got no driver (libcuda.so.1); {_INSTEAD}") from error
    _ask(driver.cuInit(0), "the driver cannot be started")
    count, device = ctypes.c_int(), ctypes.c_int()
    _ask(driver.cuDeviceGetCount(ctypes.byref(count)), "the driver cannot count its devices")
    if not count.value:
        raise MissingError(f"trt: expected a CUDA device, got a driver that sees none; {_INSTEAD}")
    _ask(driver.cuDeviceGet(ctypes.byref(device), 0), "the driver cannot open its first device")
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _ask(driver.cuDeviceGetName(name, _NAME_BYTES, device), "the device has no name")
    major, minor = (_attribute(driver, device, number) for number in (_MAJOR, _MINOR))
    version = ctypes.c_int()
    _ask(driver.cuDriverGetVersion(ctypes.byref(version)), "the driver has no version")
    cuda = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return Device(name.value.decode(errors="replace"), f"{major}.{minor}", f"{cuda}{_kernel_driver()}")


def _attribute(driver: Any, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    _ask(driver.cuDeviceGetAttribute(ctypes.byref(value), number, device), "the device has no compute capability")
    return value.value


def _ask(error: int, problem: str) -> None:
    if error:
        raise MissingError(
            f"trt: expected a CUDA device, got error {error}: {problem}; look at nvidia-smi (or tegrastats), or "
            f"{_INSTEAD}"
        )


def _kernel_driver() -> str:
    """The version of the kernel module; Jetsons do not tell one."""
    try:
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", _KERNEL_DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return f", driver {found[0]}" if found else ""
