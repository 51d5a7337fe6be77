"""What was measured becomes what the report says."""

import numpy as np
import pytest

from avcompress.contract import Measure
from engines.layer_times import LayerTime, LayerTimes
from validation.changes import find_changes
from validation.latency import Latency, ScenarioResult
from validation.machine import MachineLog
from validation.machine.state import GpuState, MachineState
from validation.mask_png import encode_mask
from validation.predictions import BoxPredictions, MaskPredictions
from validation.report.change_facts import change_facts
from validation.report.facts import layer_times
from validation.report.latency_facts import Asked, scenario_facts
from validation.truth import Objects, Truth

SAMPLES = tuple(float(value) for value in range(1, 121))


def result(**more):
    values = {
        "scenario": "constant_stream",
        "measure": Measure(rate_hz=20.0, queue="newest", background_load=2),
        "samples_ms": SAMPLES,
        "arrivals_s": tuple(index / 20 for index in range(120)),
        "stages": {"inference": Latency(SAMPLES)},
    }
    return ScenarioResult(**{**values, **more})


def test_a_scenario_keeps_every_sample_and_says_how_images_came():
    facts = scenario_facts("openvino", result(peak_memory_mb=100.0, energy_j={"package-0": 5.0}))
    assert facts.samples_ms == SAMPLES
    assert (facts.rate_hz, facts.queue, facts.background_load, facts.cameras) == (20.0, "newest", 2, 1)
    assert (facts.percentiles["p50"].value, facts.percentiles["p99"].value) == (60.0, 119.0)
    assert facts.percentiles["p50"].low < 60.0 < facts.percentiles["p50"].high
    assert (facts.percentiles["p99"].high, facts.percentiles["p99.9"].value) == (None, None)
    assert (facts.max_ms, facts.stages["inference"].p50_ms, facts.energy_j) == (120.0, 60.0, {"package-0": 5.0})
    assert facts.machine is None
    single = scenario_facts("openvino", result(scenario="single_stream"))
    assert (single.rate_hz, single.queue, single.cameras) == (None, None, 1)
    assert scenario_facts("a", result(scenario="multi_camera", measure=Measure(cameras=4))).cameras == 4


def test_a_dropped_image_misses_every_deadline_and_the_rate_has_its_exact_bounds():
    facts = scenario_facts("a", result(dropped_s=(0.1, 0.2)), Asked(deadlines_ms=(119.0, 5000.0, 119.0)))
    assert [(miss.deadline_ms, miss.missed) for miss in facts.misses] == [(119.0, 3), (5000.0, 2)]
    rate = facts.misses[1].rate
    assert rate.value == 2 / 122
    # P(X >= 2) at the lower end and P(X <= 2) at the upper are 5 %, X binomial of 122 images.
    assert 1 - (1 - rate.low) ** 122 - 122 * rate.low * (1 - rate.low) ** 121 == pytest.approx(0.05, rel=1e-6)
    p = rate.high
    few = (1 - p) ** 122 + 122 * p * (1 - p) ** 121 + 122 * 121 / 2 * p**2 * (1 - p) ** 120
    assert few == pytest.approx(0.05, rel=1e-6)
    assert facts.percentiles["p99"].value is None  # it is a result that never came
    assert facts.max_ms == 120.0


def test_the_machine_s_state_is_the_least_and_the_most_of_every_look():
    looks = (
        MachineState(0.0, ("powersave",), (1000.0, 3000.0), {"pkg": 50.0}, load_average=0.5,
                     gpus=(GpuState("A", clock_mhz=900.0, temperature_c=40.0),)),
        MachineState(1.0, ("powersave",), (1500.0, 2000.0), {"pkg": 80.0}, power_mode="15W",
                     gpus=(GpuState("A", clock_mhz=600.0),)),
    )  # fmt: skip
    state = scenario_facts("a", result(machine=MachineLog(looks))).machine
    assert (state.governors, state.power_mode) == (("powersave",), "15W")
    assert {name: (seen.low, seen.high) for name, seen in state.clocks_mhz.items()} == {
        "cpu": (1000.0, 3000.0), "A": (600.0, 900.0),
    }  # fmt: skip
    assert {name: (seen.low, seen.high) for name, seen in state.temperatures_c.items()} == {
        "A": (40.0, 40.0), "pkg": (50.0, 80.0),
    }  # fmt: skip
    assert (state.load_average.low, state.load_average.high) == (0.5, 0.5)


def truth(**more):
    return Truth(
        names=("a", "b"), classes=("car", "person"), fingerprint="0" * 64, sizes=np.full((2, 2), 9, np.int32),
        brightness=np.zeros(2, np.float32), tags={}, **more,
    )  # fmt: skip


def test_changed_objects_are_counted_by_class_and_their_scores_in_bins():
    xyxy = np.array([[0, 0, 20, 20], [30, 30, 50, 50], [60, 0, 80, 20]], np.float32)
    image, labels = np.array([0, 0, 1]), np.array([0, 1, 1])
    objects = Objects(image, xyxy, labels, np.zeros(3, np.bool_), np.full(3, 400.0), {})
    before = BoxPredictions(("a", "b"), image, xyxy, np.array([0.9, 0.8, 0.7], np.float32), labels)
    after = BoxPredictions(("a", "b"), image, xyxy, np.array([0.85, 0.1, 0.7], np.float32), labels)

    facts = change_facts(find_changes(truth(objects=objects), before, after, 0.3))

    car, person = facts.classes
    assert (car.lost, car.mean_move) == (0, pytest.approx(-0.05))
    assert (person.objects, person.lost, person.faded, person.gained) == (2, 1, 1, 0)
    assert person.worst_move == pytest.approx(-0.7)
    assert [(image.name, image.lost) for image in facts.worst] == [("a", 1)]
    assert sum(facts.moves.counts) == 3
    assert facts.moves.edges[0] == -facts.moves.edges[-1] == -0.72  # bins of 0.02 that hold a move of 0.7000001
    assert len(facts.moves.edges) == len(facts.moves.counts) + 1
    assert 0.0 in facts.moves.edges


def test_changed_pixels_are_counted_by_class():
    label, wrong = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    wrong[0] = 1
    right, worse = encode_mask(label), encode_mask(wrong)
    found = find_changes(
        truth(masks=(right, right)),
        MaskPredictions(("a", "b"), (right, right)),
        MaskPredictions(("a", "b"), (right, worse)),
    )
    facts = change_facts(found)
    assert [(row.name, row.pixels, row.worse, row.better) for row in facts.pixels] == [
        ("car", 162, 9, 0), ("person", 0, 0, 0),
    ]  # fmt: skip
    assert [(image.name, image.lost) for image in facts.worst] == [("b", 9)]
    assert facts.moves is None


def test_what_a_runtime_added_stands_for_no_node():
    layers = (
        LayerTime("conv1", 1.0, 0.9, 0.5, precision="i8", fused=("relu1",)),
        LayerTime("reorder", 0.5, 0.4, 0.2, own=False),
    )
    found = layer_times(LayerTimes(layers, 2.0, 50))
    assert [(layer.name, layer.nodes, layer.ms, layer.precision) for layer in found] == [
        ("conv1", ("conv1", "relu1"), 0.9, "i8"), ("reorder", (), 0.4, ""),
    ]  # fmt: skip
