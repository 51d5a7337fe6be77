import math
from pathlib import Path

import pytest

from avcompress.contract import Measure
from avcompress.frozen import Model
from validation.latency import Latency, ScenarioResult
from validation.latency import facts as layout
from validation.latency.facts import distribution, misses, scenario_facts
from validation.machine import GpuState, MachineLog, MachineState
from validation.machine.state import Cooling, Counter

DOCS = Path(__file__).resolve().parents[3] / "docs" / "latency.md"
MODELS = [
    model
    for model in vars(layout).values()
    if isinstance(model, type) and issubclass(model, Model) and model.__module__ == layout.__name__
]


def test_a_percentile_without_enough_images_has_neither_figure_nor_bounds():
    found = distribution(Latency((1.0, 2.0, 3.0)))
    assert (found.p50.ms, found.p50.low_ms, found.p50.high_ms) == (2.0, None, None)
    assert (found.p90.ms, found.p90.low_ms, found.p90.high_ms) == (None, None, None)
    assert (found.images, found.max_ms, found.deviation_ms, found.change_ms) == (3, 3.0, 1.0, 1.0)
    assert found.spread_ms is None


def test_dropped_images_are_among_the_misses():
    result = ScenarioResult("constant_stream", Measure(), (1.0, 9.0, 1.0), dropped_s=(0.1,))
    found = misses(result, 5.0)
    assert (found.images, found.of, found.rate) == (2, 4, 0.5)
    assert 0 < found.low < 0.5 < found.high < 1


def test_a_single_stream_has_neither_rate_nor_queue_nor_cameras():
    found = scenario_facts(ScenarioResult("single_stream", Measure(cameras=4), (1.0,)))
    assert (found.rate_hz, found.queue, found.phases, found.cameras) == (None, None, None, 1)
    found = scenario_facts(ScenarioResult("multi_camera", Measure(cameras=4), (1.0,)))
    assert (found.rate_hz, found.queue, found.phases, found.cameras) == (10.0, "newest", "spread", 4)


def test_states_stand_as_they_were_seen_from_the_first_look_on():
    states = tuple(
        MachineState(
            at_s=100.0 + second,
            cooling={"fan 0": Cooling(1, 4)},
            counters={"GPU 0": Counter(5.0 + second)},
            gpus=(GpuState("T4", clock_mhz=1590.0),),
        )
        for second in (0, 2)
    )
    first, last = scenario_facts(ScenarioResult("single_stream", Measure(), (1.0,), machine=MachineLog(states))).machine
    assert (first.at_s, last.at_s) == (0.0, 2.0)
    assert (last.cooling, last.energy_counters_j, last.gpus[0].clock_mhz) == ({"fan 0": 1}, {"GPU 0": 7.0}, 1590.0)
    assert last.load_average is None


def test_no_figure_of_the_json_is_nan():
    assert "NaN" not in scenario_facts(ScenarioResult("single_stream", Measure(), ())).model_dump_json()
    assert math.isnan(ScenarioResult("single_stream", Measure(), ()).served.p50)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_documented_in_the_words_of_the_model(model):
    section = DOCS.read_text(encoding="utf-8").partition(f"\n### {model.__name__}\n")[2].partition("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert any(row.startswith(f"| `{name}` |") and row.endswith(f"| {field.description} |") for row in rows), name
