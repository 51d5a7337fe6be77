"""What this machine is, and what state it was in while something was measured on it."""

from validation.machine.describe import describe_machine, library_versions, processors, runtime_versions
from validation.machine.energy import energy_j
from validation.machine.log import MachineLog, logged, read_state
from validation.machine.memory import PeakMemory
from validation.machine.state import GpuState, MachineState
from validation.machine.throttling import state_warnings, throttled

__all__ = [
    "GpuState",
    "MachineLog",
    "MachineState",
    "PeakMemory",
    "describe_machine",
    "energy_j",
    "library_versions",
    "logged",
    "processors",
    "read_state",
    "runtime_versions",
    "state_warnings",
    "throttled",
]
