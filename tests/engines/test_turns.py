"""engines.turns: real engines, measured in turns, whatever else the machine does."""

import time

import numpy as np
import pytest
from onnx import helper

from avcompress.recipe import OpenVinoEngine, OrtEngine, TrtEngine
from avcompress.spec import EngineError
from engines.session import FakeSession
from engines.turns import Turns, _in_turns, engine_clock, timer_of


@pytest.fixture
def conv_net(network):
    """One convolution of this weight, of `w`, from x to y."""

    def make(weight, size=(9, 8)):
        conv = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
        out = [1, weight.shape[0], size[0] - 2, size[1] - 2]
        return network([conv], {"x": [1, weight.shape[1], *size]}, {"y": out}, {"w": weight.astype(np.float32)})

    return make


FEW = Turns(warmup=1, least=5, seconds=0.0)


@pytest.mark.parametrize("engine", [OrtEngine(backend="ort", threads=1), OpenVinoEngine(backend="openvino", threads=1)])
def test_a_hundred_times_the_work_takes_longer(conv_net, engine):
    small, large = (conv_net(np.ones((n, n, 3, 3)), size=(24, 24)) for n in (8, 80))

    found = engine_clock(engine, FEW)([small, large])

    assert 0 < found[0] < found[1]


def test_networks_take_turns_and_each_begins_one():
    order = []

    def session(name):
        def run(inputs):
            order.append(name)
            return inputs

        return FakeSession(run, {"x": (1,)}, ("x",))

    inputs = {"x": np.zeros(1, np.float32)}
    found = _in_turns([session(name) for name in "abc"], [inputs] * 3, Turns(warmup=0, least=3, seconds=0.0))

    assert "".join(order) == "abcbcacab"
    assert len(found) == 3


def test_short_runs_are_repeated_until_they_fill_the_time():
    count = [0]

    def run(inputs):
        count[0] += 1
        return inputs

    inputs = {"x": np.zeros(1, np.float32)}
    _in_turns([FakeSession(run, {"x": (1,)}, ("x",))], [inputs], Turns(warmup=2, least=1, seconds=10.0, most=40))

    assert count[0] == 42


def test_a_network_that_the_engine_refuses_is_an_error(conv_net):
    broken = conv_net(np.ones((4, 3, 3, 3)))
    broken.graph.node[0].op_type = "Unknown"

    with pytest.raises(EngineError):
        engine_clock(OrtEngine(backend="ort"), FEW)([broken])


@pytest.mark.parametrize(
    ("engine", "timer"),
    [
        (OpenVinoEngine(backend="openvino", threads=1), time.process_time),
        (OrtEngine(backend="ort", threads=1), time.process_time),
        (OpenVinoEngine(backend="openvino"), time.perf_counter),
        (OrtEngine(backend="ort", threads=2), time.perf_counter),
        (OrtEngine(backend="ort", threads=1, providers=["CUDAExecutionProvider"]), time.perf_counter),
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
