"""engines.timer: what other work on the machine does to a comparison."""

import time

import pytest

from avcompress.recipe import OpenVinoEngine, OrtEngine, TrtEngine
from engines.timer import timer_of


@pytest.mark.parametrize(
    ("engine", "timer"),
    [
        (OpenVinoEngine(backend="openvino", threads=1), time.process_time),
        (OrtEngine(backend="ort", threads=1), time.process_time),
        (OpenVinoEngine(backend="openvino"), time.perf_counter),
        (OrtEngine(backend="ort", threads=2), time.perf_counter),
        (TrtEngine(backend="trt"), time.perf_counter),
    ],
)
def test_cpu_time_stands_for_one_thread_alone(engine, timer):
    assert timer_of(engine) is timer


def test_waiting_for_others_is_no_time_of_one_thread():
    timer = timer_of(OrtEngine(backend="ort", threads=1))

    start = timer()
    time.sleep(0.05)

    assert timer() - start < 0.04
