"""Latency: what is measured, how images come, and how sure a figure is."""

from validation.latency.bounds import CONFIDENCE, miss_rate_bounds, runs_for_bound
from validation.latency.load import background_load
from validation.latency.measuring import Instruments, ScenarioResult, measure_scenario
from validation.latency.scenarios import WAITING, run_scenario, schedule, warm_up
from validation.latency.speedup import Speedup, speedup_of, time_in_turns
from validation.latency.stages import TOTAL, Stages, measure_latency, measure_stages
from validation.latency.terms import MISS_RATE, TermFigure, hardest_claim, runs_needed, term_figures
from validation.latency.timing import REAL, Clock, Time
from validation.latency.turns import InTurn, in_turn, time_each
from validation.latency.values import LATE, PERMILLE, RUNS_NEEDED, Latency

__all__ = [
    "CONFIDENCE",
    "LATE",
    "MISS_RATE",
    "PERMILLE",
    "REAL",
    "RUNS_NEEDED",
    "TOTAL",
    "WAITING",
    "Clock",
    "InTurn",
    "Instruments",
    "Latency",
    "ScenarioResult",
    "Speedup",
    "Stages",
    "TermFigure",
    "Time",
    "background_load",
    "hardest_claim",
    "in_turn",
    "measure_latency",
    "measure_scenario",
    "measure_stages",
    "miss_rate_bounds",
    "run_scenario",
    "runs_for_bound",
    "runs_needed",
    "schedule",
    "speedup_of",
    "term_figures",
    "time_each",
    "time_in_turns",
    "warm_up",
]
