"""Whether the machine slowed down while it was measured, and what about it makes figures hard to repeat."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator

from validation.machine.log import MachineLog
from validation.machine.state import MachineState

MARGIN = 0.1
"""A clock that is lower than at the start by this share counts as slowed down: turbo wanders by less."""
# Cooling devices that hold clocks down; fans, backlights and set offsets are cooling devices, too.
_SLOWING = ("*throttle-alert *", "processor *", "*cpufreq*", "*devfreq*")


def throttled(log: MachineLog) -> tuple[str, ...]:
    """One line for each sign that the machine held its clocks down; none: no sign, as far as it tells any."""
    states = log.states
    if not states:
        return ()
    return tuple(
        dict.fromkeys((*_counted(states[0], states[-1]), *_cooled(states), *_reasons(states), *_clocks(states)))
    )


def state_warnings(log: MachineLog) -> tuple[str, ...]:
    """One line for each thing that makes latencies on this machine hard to repeat, or throttling invisible."""
    if not log.states:
        return ()
    first = log.states[0]
    lines = []
    slow = [name for name in first.governors if name != "performance"]
    if slow:
        lines.append(
            f"CPU governor {', '.join(slow)}: the clock follows the load, and latencies with it; set performance "
            "(cpupower frequency-set -g performance; on a Jetson: jetson_clocks)"
        )
    if first.power_mode is not None and not first.power_mode.startswith("MAXN"):
        lines.append(f"power mode {first.power_mode}: not the fastest of this board, which is MAXN (nvpmodel -m 0)")
    if not (first.cpu_mhz or first.temperatures_c or first.throttle_counts or first.cooling or first.gpus):
        lines.append("this machine tells no clock, temperature or throttling: whether it slowed down cannot be seen")
    return tuple(lines)


def _counted(first: MachineState, last: MachineState) -> Iterator[str]:
    for name, count in last.throttle_counts.items():
        new = count - first.throttle_counts.get(name, count)
        if new > 0:
            yield f"{name} rose by {new}: the processor slowed down"


def _cooled(states: tuple[MachineState, ...]) -> Iterator[str]:
    for name in dict.fromkeys(name for state in states for name in state.cooling):
        most = max((state.cooling[name] for state in states if name in state.cooling), key=lambda found: found.state)
        slowing = any(fnmatch.fnmatch(name.lower(), pattern) for pattern in _SLOWING)
        if slowing and most.state > 0:
            yield f"cooling device {name} was at {most.state} of {most.most}: it holds clocks down"


def _reasons(states: tuple[MachineState, ...]) -> Iterator[str]:
    for gpu in itertools.chain.from_iterable(state.gpus for state in states):
        for reason in gpu.slowed_by:
            yield f"{gpu.name}: its clock was held down: {reason}"


def _clocks(states: tuple[MachineState, ...]) -> Iterator[str]:
    """Clocks below what they were at the start: the fastest core's, and each GPU's."""
    free = set(states[0].governors) - {"performance"}
    line = _fell([max(state.cpu_mhz, default=None) for state in states])
    if line:
        yield f"CPU clock, fastest core: {line}" + (f", which governor {min(free)} may do by itself" if free else "")
    for index, gpu in enumerate(states[0].gpus):
        line = _fell([state.gpus[index].clock_mhz if index < len(state.gpus) else None for state in states])
        if line:
            yield f"{gpu.name}: clock {line}, which an idle GPU may do by itself"


def _fell(clocks: list[float | None]) -> str:
    start, lowest = clocks[0], min((clock for clock in clocks if clock is not None), default=None)
    if start is None or lowest is None or lowest >= (1 - MARGIN) * start:
        return ""
    return f"fell from {start:.0f} to {lowest:.0f} MHz"
