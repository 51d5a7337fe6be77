"""engines.tensorrt.layer_times: what TensorRT's profiler tells, by ONNX node."""

import numpy as np
import pytest

from avcompress.spec import EngineError
from engines.layer_map import BuilderLayer
from engines.layer_times import Timing
from engines.tensorrt.layer_times import time_session
from engines.tensorrt.session import TrtSession, TrtSettings

PLAN = b"plan"
X = {"x": np.ones((1, 2, 3), np.float32)}
LAYERS = (
    BuilderLayer("conv1 + relu1", "CaskConvolution", ("Int8",), ("Int8",), ("Int8",), ("conv1", "relu1")),
    BuilderLayer("Reformatting CopyNode for Input Tensor 0", "Reformat", ("Float",), (), ("Int8",), ()),
)


@pytest.fixture
def load(trt, cuda, plan, tensor):
    def run(**chosen):
        trt.plans[PLAN] = plan(
            (tensor("x", (1, 2, 3)), tensor("y", (1, 2, 3), is_input=False)),
            lambda i: {"y": 2 * i["x"]},
            times=(("Reformatting CopyNode for Input Tensor 0", 0.25), ("conv1 + relu1", 1.5), ("__myl_Softmax", 0.5)),
        )
        return TrtSession(trt, cuda, PLAN, TrtSettings(**chosen), "here")

    return run


def test_layers_are_told_by_their_nodes(load):
    with load(graphs=False) as session:
        found = time_session(session, (LAYERS, {"conv1"}), X, Timing(warmup=2, runs=4))

    assert [(layer.layer, layer.own, layer.mean_ms, layer.median_ms) for layer in found.layers] == [
        ("Reformatting CopyNode for Input Tensor 0", False, 0.25, 0.25),
        ("conv1", True, 1.5, 1.5),
        ("__myl_Softmax", False, 0.5, 0.5),
    ]
    assert found.layers[1].fused == ("relu1",)
    assert (found.layers[1].kind, found.layers[1].precision) == ("CaskConvolution", "Int8")
    assert found.runs == 4


def test_runs_after_the_measurement_tell_nothing(load):
    with load(graphs=False) as session:
        heard = []
        with session.profiled(lambda *told: heard.append(told)):
            session.run(X)
        told = len(heard)
        assert np.array_equal(session.run(X)["y"], 2 * X["x"])

    assert told == len(heard) == 3


def test_a_session_with_graphs_is_refused(load):
    with load() as session, pytest.raises(EngineError, match="expected a session without CUDA graphs"):
        time_session(session, ((), ()), X)


def test_all_is_given_back_when_a_run_fails_while_it_is_measured(load, cuda, trt):
    session = load(graphs=False)
    trt.refuse["execute_async_v3"] = "out of memory"

    with pytest.raises(EngineError, match="out of memory"):
        time_session(session, ((), ()), X)
    session.close()

    assert cuda.leaks == {}
