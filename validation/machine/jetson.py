"""What a Jetson tells beside a plain Linux: its power mode, its rails, the clock of its GPU.

Source: NVIDIA Jetson Linux Developer Guide, "Jetson Orin Nano Series, Jetson Orin NX Series and Jetson AGX Orin Series"
(nvpmodel, INA3221 through hwmon, devfreq); jetson-stats for its service.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from validation.machine.files import by_name, folders, read_number, read_text
from validation.machine.state import GpuState

_GPUS = ("*.ga10b", "*.gv11b", "*.gp10b", "*.gm20b", "*.gpu", "gpu-gpc-0")
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)")


def read_jetson(root: Path) -> dict[str, Any]:
    """The fields of MachineState that only a Jetson fills; empty elsewhere."""
    clocks = [
        clock
        for pattern in _GPUS
        for device in folders(root / "sys/class/devfreq", pattern)
        if (clock := read_number(device / "cur_freq", 1e-6)) is not None
    ]
    return {
        "power_mode": _power_mode(root),
        "rails_w": by_name(_rails(root / "sys/class/hwmon")),
        "gpus": tuple(GpuState("integrated GPU", clock_mhz=clock) for clock in clocks[:1]),
    }


def _power_mode(root: Path) -> str | None:
    """The mode that nvpmodel was last set to, by its name in the board's own table; else what jtop says."""
    status = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return _power_mode_by_jtop() if root == Path("/") else None
    number = int(status[1])
    for other, name in _MODE.findall(read_text(root / "etc/nvpmodel.conf") or ""):
        if int(other) == number:
            return str(name)
    return f"mode {number}"


def _power_mode_by_jtop() -> str | None:
    """Ask the service of jetson-stats, where it is installed: a container may reach it, but not nvpmodel's file."""
    try:
        jtop = importlib.import_module("jtop").jtop
        with jtop() as board:
            return str(board.nvpmodel.name) if board.ok() and board.nvpmodel else None
    except Exception:  # not installed, not running, not a Jetson, another version: all the same to us
        return None


def _rails(hwmon: Path) -> Iterator[tuple[str, float | None]]:
    """Power by rail: a channel without a label is not connected."""
    for sensor in folders(hwmon, "hwmon*"):
        if read_text(sensor / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            label = read_text(sensor / f"in{channel}_label")
            volts = read_number(sensor / f"in{channel}_input", 1e-3)
            amperes = read_number(sensor / f"curr{channel}_input", 1e-3)
            if label and label != "NC" and volts is not None and amperes is not None:
                yield label, volts * amperes
