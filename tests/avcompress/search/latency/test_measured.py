import numpy as np
import pytest

from avcompress.recipe import OrtEngine
from avcompress.search.groups import OUTSIDE
from avcompress.search.latency.measured import Measured, fit_conversions, layers_ms, mixtures, uniform
from avcompress.search.latency.source import Subject
from avcompress.search.latency.table import load_table, network_structure, save_table
from engines.layer_times import LayerTime, LayerTimes


def subject(formats, *precisions: str) -> Subject:
    made = formats(*precisions)
    return Subject(made.model, made.layout, made.choices, made.assigned)


def test_mixtures_are_of_what_groups_may_take_and_the_same_for_the_same_seed(formats):
    asked = subject(formats, "int8", "fp16")

    found = mixtures(asked, 20, seed=3)

    assert found == mixtures(asked, 20, seed=3) != mixtures(asked, 20, seed=4)
    assert all(mixture[name] in own for mixture in found for name, own in asked.choices.items())
    assert {precision for mixture in found for precision in mixture.values()} == {"fp32", "fp16", "int8"}


def test_the_times_of_networks_that_were_not_measured_follow_from_those_that_were(formats):
    asked = subject(formats, "int8", "fp16")
    layers = {layer: {"fp32": 2.0, "fp16": 1.5, "int8": 1.0} for layer in asked.layout.group_of}
    designs = [*(uniform(asked, each) for each in asked.precisions), *mixtures(asked, 200, seed=0)]
    bits = {"fp32": 32, "fp16": 16, "int8": 8}

    def taken(design, convert_ms) -> float:
        own = sum(layers[layer][design[group]] for layer, group in asked.layout.group_of.items())
        for passage in asked.layout.passages:
            of, to = ("fp32" if end == OUTSIDE else design[end] for end in (passage.source, passage.target))
            own += convert_ms(of, to, passage.values) if of != to else 0.0
        return own + 0.4

    def truth(of: str, to: str, values: float) -> float:
        return 0.05 + (bits[of] + bits[to]) * values * 1e-5

    others, conversions = fit_conversions(asked, layers, designs, [taken(design, truth) for design in designs])

    found = {(each.of, each.to): (each.call_ms, each.million_ms) for each in conversions}

    def fitted(of: str, to: str, values: float) -> float:
        return found[of, to][0] + found[of, to][1] * values / 1e6

    # Which of two conversions that always come together takes the time, no measurement tells.
    assert others == pytest.approx(0.4, abs=1e-6)
    for design in mixtures(asked, 20, seed=9):
        assert taken(design, fitted) == pytest.approx(taken(design, truth), rel=1e-6)


def test_a_layer_has_its_share_of_what_the_network_takes_without_a_profiler(formats):
    asked = subject(formats, "int8")
    times = [
        LayerTimes(tuple(LayerTime(name, ms, ms, 0.0) for name in ("first", "left", "last")), total_ms=9, runs=1)
        for ms in (4.0, 2.0)
    ]

    found = layers_ms(asked, [uniform(asked, "fp32"), uniform(asked, "int8")], times, totals=[6.0, 6.0])

    assert found["first"] == {"fp32": 2.0, "int8": 2.0}
    assert found["right"] == {"fp32": 0.0, "int8": 0.0}  # fused into another


def test_a_backend_of_this_machine_gives_a_table_that_is_a_file(formats, tmp_path):
    asked = subject(formats, "int8")

    found = Measured(OrtEngine(backend="ort", optimize=True, threads=1), mixed=2, seconds=0.02).table(asked)

    assert not found.estimate
    assert found.backend == "ort"
    assert sum(found.layer_ms(layer, "fp32") for layer in asked.layout.group_of) > 0
    assert np.isfinite([each.call_ms + each.million_ms for each in found.conversions]).all()
    save_table(found, tmp_path / "times.json")
    again = load_table(tmp_path / "times.json", network_structure(asked.model), asked.layout, asked.precisions)
    assert again == found
