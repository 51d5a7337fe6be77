"""Energy that the machine took while it was measured, as far as it tells."""

from __future__ import annotations

import itertools

from validation.machine.log import MachineLog
from validation.machine.state import Counter, MachineState

# The rails that feed a whole module or board; the other rails of such a board are parts of them.
_WHOLE = ("VDD_IN", "POM_5V_IN", "5V_IN")


def energy_j(log: MachineLog) -> dict[str, float]:
    """Joules from the first look to the last, by what counted them; empty where nothing does.

    Counters of processors (RAPL) and GPUs (NVML) count by themselves. Rails of a Jetson tell their power at a moment:
    it is integrated over the looks by the trapezoidal rule, where there are some meanwhile: those before and after see
    the board at rest. Whatever else runs on the machine is in it, and so is what the machine takes when idle.
    """
    states = log.states
    if len(states) < 2:
        return {}
    names = [name for name in states[0].counters if all(name in state.counters for state in states)]
    counted = {name: _counted([state.counters[name] for state in states]) for name in names}
    found = {name: joules for name, joules in counted.items() if joules is not None}
    if len(states) > 2 and all(state.rails_w for state in states):
        found["board rails"] = sum(
            (after.at_s - before.at_s) * (board_power(before) + board_power(after)) / 2
            for before, after in itertools.pairwise(states)
        )
    return found


def board_power(state: MachineState) -> float:
    """Watts of the rail that feeds all of a Jetson, else the sum of its rails, as jetson-stats has it."""
    whole = [watts for name, watts in state.rails_w.items() if name in _WHOLE]
    return whole[0] if whole else sum(state.rails_w.values())


def _counted(counters: list[Counter]) -> float | None:
    """The sum of the differences; one below 0 means that the counter started again, None that nobody knows where."""
    total = 0.0
    for before, after in itertools.pairwise(counters):
        step = after.joules - before.joules
        if step < 0 and before.wraps_j is None:
            return None
        total += step + (before.wraps_j or 0.0 if step < 0 else 0.0)
    return total
