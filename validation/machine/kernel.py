"""What Linux tells of processor, heat, memory and energy.

Source: kernel.org, Documentation: admin-guide/pm/cpufreq.rst, driver-api/thermal/sysfs-api.rst, power/powercap/
powercap.rst; arch/x86 therm_throt.c for the counters of throttling.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from validation.machine.files import by_name, folders, read_number, read_text
from validation.machine.state import Cooling, Counter

_COUNTERS = ("core_throttle_count", "package_throttle_count")


def read_kernel(root: Path) -> dict[str, Any]:
    """The fields of MachineState that the kernel of any Linux may fill; `root` holds sys and proc."""
    system = root / "sys"
    cores = folders(system / "devices/system/cpu", "cpu[0-9]*")
    governors = {text for core in cores if (text := read_text(core / "cpufreq/scaling_governor"))}
    clocks = (read_number(core / "cpufreq/scaling_cur_freq", 1e-3) for core in cores)
    return {
        "governors": tuple(sorted(governors)),
        "cpu_mhz": tuple(clock for clock in clocks if clock is not None),
        "temperatures_c": by_name(_temperatures(system / "class/thermal")),
        "cooling": dict(_cooling(system / "class/thermal")),
        "throttle_counts": dict(_throttle_counts(system, cores)),
        "load_average": _load(root / "proc/loadavg"),
        "memory_available_mb": _available(root / "proc/meminfo"),
        "counters": dict(_energy(system / "class/powercap")),
    }


def _temperatures(thermal: Path) -> Iterator[tuple[str, float | None]]:
    for zone in folders(thermal, "thermal_zone*"):
        yield read_text(zone / "type") or zone.name, read_number(zone / "temp", 1e-3)


def _cooling(thermal: Path) -> Iterator[tuple[str, Cooling]]:
    for device in folders(thermal, "cooling_device*"):
        state, most = read_number(device / "cur_state"), read_number(device / "max_state")
        if state is not None:
            number = device.name.removeprefix("cooling_device")
            yield f"{read_text(device / 'type') or 'device'} {number}", Cooling(int(state), int(most or 0))


def _throttle_counts(system: Path, cores: list[Path]) -> Iterator[tuple[str, int]]:
    """Sums over the cores; a package's events are told by each of its cores, so the largest counts there."""
    for name in _COUNTERS:
        found = [count for core in cores if (count := read_number(core / "thermal_throttle" / name)) is not None]
        if found:
            yield name, int(sum(found) if name.startswith("core") else max(found))
    # A Jetson counts each over-current that made it slow down.
    for sensor in folders(system / "class/hwmon", "hwmon*"):
        for file in folders(sensor, "oc*_event_cnt"):
            count = read_number(file)
            if count is not None:
                yield file.name, int(count)


def _load(path: Path) -> float | None:
    text = read_text(path)
    try:
        return float(text.split()[0]) if text else None
    except ValueError:
        return None


def _available(path: Path) -> float | None:
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[:1]:
            return int(value.split()[0]) / 1024
    return None


def _energy(powercap: Path) -> Iterator[tuple[str, Counter]]:
    """Whole packages only: cores and memory controllers are parts of them."""
    for zone in folders(powercap, "intel-rapl:*"):
        joules = read_number(zone / "energy_uj", 1e-6)
        if zone.name.count(":") == 1 and joules is not None and (read_text(zone / "name") or "").startswith("package"):
            yield f"RAPL {read_text(zone / 'name')}", Counter(joules, read_number(zone / "max_energy_range_uj", 1e-6))
