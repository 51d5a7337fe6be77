"""avcompress.lowrank.clock: real engines, measured in turns."""

import numpy as np
import pytest

from avcompress.lowrank.clock import Turns, _in_turns, engine_clock
from avcompress.recipe import OpenVinoEngine, OrtEngine
from avcompress.spec import EngineError
from engines.session import FakeSession

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
