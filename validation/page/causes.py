"""Why a line of the contract is broken, as far as the report's own figures tell."""

from __future__ import annotations

from validation.comparison import less_is_better
from validation.page.accuracy import main_family
from validation.page.write import count, metric, rate
from validation.report import ContractLine, Report, ScenarioFacts

SHOWN = 3
_SCENARIOS = ("constant_stream", "multi_camera")


def cause(line: ContractLine, report: Report) -> str:
    """What the line itself notes, or what stands out among the figures behind it; empty where nothing does."""
    if line.domain:  # what else the report holds is of other images, beside another network
        return line.note
    found = [line.note] if line.note else []
    if line.metric:
        found += _objects(line, report) or ([] if line.note else _classes(line, report))
    elif line.unit == "ms" or "miss rate" in line.name:
        found += _machine(line, report)
    elif line.unit == "dB" and not line.note and report.drift is not None and report.drift.first_beyond:
        found.append(f"first layer below: {report.drift.first_beyond}")
    return "; ".join(found)


def _objects(line: ContractLine, report: Report) -> list[str]:
    """Of a line on one class: its objects that were lost."""
    name = line.metric.partition("/")[2]
    changes = report.changes.get(line.engine)
    if not name or changes is None or line.slice:
        return []
    return [
        f"{count(row.lost)} of {count(row.objects)} objects lost, {count(row.gained)} gained"
        for row in changes.classes
        if row.name == name and row.lost
    ]


def _classes(line: ContractLine, report: Report) -> list[str]:
    """Of a line on all classes: those whose loss is proven."""
    comparison = report.comparisons.get(line.engine)
    part = None if comparison is None else comparison.find(line.slice or "all")
    if part is None or "/" in line.metric or less_is_better(line.metric):
        return []
    family = main_family(line.metric)
    lost = {
        name.partition("/")[2]: drop.value
        for name, drop in part.drop.items()
        if name.startswith(f"{family}/") and drop.low is not None and drop.low > 0 and drop.value is not None
    }
    worst = sorted(lost, key=lambda name: -lost[name])[:SHOWN]
    return ["lost most: " + ", ".join(f"{name} by {metric(lost[name])}" for name in worst)] if worst else []


def _machine(line: ContractLine, report: Report) -> list[str]:
    """Of a line on latency: how many images were late in its scenario, unless it says so itself, and a slow machine."""
    named = next((name for name in _SCENARIOS if name in line.name), "single_stream")
    for facts in report.scenarios:
        if (facts.engine, facts.scenario) == (line.engine, named):
            slowed = ["the machine slowed itself down: " + "; ".join(facts.throttled)] if facts.throttled else []
            return [*([] if line.note else _late(line, facts)), *slowed]
    return []


def _late(line: ContractLine, facts: ScenarioFacts) -> list[str]:
    total = len(facts.samples_ms) + len(facts.dropped_s)
    return [
        f"{count(miss.missed)} of {count(total)} images later than {miss.deadline_ms:g} ms ({rate(miss.rate.value)})"
        for miss in facts.misses
        if miss.missed and (line.unit != "ms" or miss.deadline_ms == line.limit)
    ]
