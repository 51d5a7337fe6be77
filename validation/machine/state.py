"""What a machine tells of itself at one moment; what it does not tell is empty or None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class GpuState:
    """One GPU.

    Attributes:
        name: as the driver has it.
        clock_mhz: of its arithmetic.
        memory_mhz: of its memory.
        temperature_c: degrees Celsius.
        power_w: what it draws.
        slowed_by: reasons that its clock is held down by now, but not that it is idle or was told so.
    """

    name: str
    clock_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    slowed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cooling:
    """A cooling device of the kernel: 0 is idle; what is above holds clocks down, or turns a fan."""

    state: int
    most: int


@dataclass(frozen=True)
class Counter:
    """A counter of energy in joules, which starts again from 0 at `wraps_j`; None: it never does."""

    joules: float
    wraps_j: float | None = None


@dataclass(frozen=True)
class MachineState:
    """One look at the machine.

    Attributes:
        at_s: when, from any origin.
        governors: of the cores' clocks, each once.
        cpu_mhz: by core, in the order of the cores.
        temperatures_c: by thermal zone.
        cooling: by cooling device.
        throttle_counts: events since the start of the machine, by what counts them.
        load_average: runnable processes, mean of the last minute.
        memory_available_mb: what could be given to new programs.
        power_mode: of a Jetson, as nvpmodel calls it.
        rails_w: power by rail, where the board measures it.
        counters: of energy, by what they count.
        gpus: those that tell.
    """

    at_s: float
    governors: tuple[str, ...] = ()
    cpu_mhz: tuple[float, ...] = ()
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    cooling: Mapping[str, Cooling] = field(default_factory=dict)
    throttle_counts: Mapping[str, int] = field(default_factory=dict)
    load_average: float | None = None
    memory_available_mb: float | None = None
    power_mode: str | None = None
    rails_w: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, Counter] = field(default_factory=dict)
    gpus: tuple[GpuState, ...] = ()
