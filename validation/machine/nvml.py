"""What NVIDIA's driver tells of its GPUs, where nvidia-ml-py is installed.

Source: NVML API Reference Guide; nvidia-ml-py, the module `pynvml`.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from validation.machine.state import Counter, GpuState

SLOWED_BY = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "temperature, by the driver",
    0x40: "temperature, by the hardware",
    0x80: "power brake",
    0x200: "board limit",
    0x400: "reliability limit",
}
"""Bits of the reasons that NVML gives for a lower clock; that it is idle, or was set so, is none of them."""


def read_nvml() -> dict[str, Any]:
    """The fields `gpus` and `counters` of MachineState; empty without a driver."""
    nvml = _library()
    gpus: list[GpuState] = []
    counters: dict[str, Counter] = {}
    for index in range(_ask(nvml, "nvmlDeviceGetCount") or 0):
        handle = _ask(nvml, "nvmlDeviceGetHandleByIndex", index)
        if handle is not None:
            gpus.append(_gpu(nvml, handle))
            millijoules = _ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle)
            if millijoules is not None:
                counters[f"GPU {index}"] = Counter(millijoules / 1e3)
    return {"gpus": tuple(gpus), "counters": counters}


def _gpu(nvml: Any, handle: Any) -> GpuState:
    name = _ask(nvml, "nvmlDeviceGetName", handle)
    milliwatts = _ask(nvml, "nvmlDeviceGetPowerUsage", handle)
    return GpuState(
        name=name.decode(errors="replace") if isinstance(name, bytes) else str(name or "GPU"),
        clock_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        memory_mhz=_ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        temperature_c=_ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        power_w=None if milliwatts is None else milliwatts / 1e3,
        slowed_by=_reasons(nvml, handle),
    )


def _reasons(nvml: Any, handle: Any) -> tuple[str, ...]:
    # Drivers before 535 know the call by its older name alone.
    names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    told = (_ask(nvml, name, handle) for name in names)
    bits = next((found for found in told if found is not None), 0)
    return tuple(reason for bit, reason in SLOWED_BY.items() if bits & bit)


@cache
def _library() -> Any:
    """The module, ready for use; None where it, the driver or a GPU is missing."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # its own errors have no base where its library is missing
        return None
    return nvml


def _ask(nvml: Any, question: str, *arguments: Any) -> Any:
    """The answer; None where this GPU has none: an integrated one knows no power, an old driver no energy."""
    try:
        return getattr(nvml, question)(*arguments)
    except Exception:  # NVMLError; AttributeError of an older module, or where there is none
        return None
