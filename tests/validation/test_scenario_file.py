import math

from avcompress.contract import Measure
from validation.latency import Latency, ScenarioResult
from validation.machine import MachineLog, read_state
from validation.scenario_file import read_scenario, scenario_json


def test_a_scenario_comes_back_as_it_was():
    result = ScenarioResult(
        scenario="multi_camera",
        measure=Measure(cameras=2, runs=3, rate_hz=30.0),
        samples_ms=(1.5, 2.25),
        arrivals_s=(0.0, 0.1),
        cameras=(0, 1),
        stages={"waiting": Latency((0.5, 0.25)), "inference": Latency((1.0, 2.0))},
        dropped_s=(0.2,),
        seconds=0.3,
        machine=MachineLog((read_state(), read_state())),
        peak_memory_mb=12.5,
        energy_j={"rail": 1.5},
        throttled=("cpu0 slowed down",),
    )
    back = read_scenario(scenario_json(result).encode())

    assert back == result
    assert back.all_images == result.all_images


def test_what_was_not_measured_comes_back_as_nan():
    back = read_scenario(scenario_json(ScenarioResult("single_stream", Measure(), (1.0,))).encode())

    assert math.isnan(back.seconds)
    assert back.peak_memory_mb is None
