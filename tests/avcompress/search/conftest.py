"""What the tests of the search share: a small network with a skip, its images, and it in several precisions."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.recipe import Ptq
from avcompress.search.formats import Formats, formats_of
from avcompress.spec import Artifact, Batch

WIDTH = 8


def conv(name: str, data: str, out: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [data, f"{name}.weight"], [out], name, pads=[1] * 4)


def residual_network() -> onnx.ModelProto:
    """first - relu - (left | right) - add - relu - last: left and right read one tensor; 3 -> 8 -> 2 channels, 8x8."""
    rng = np.random.default_rng(0)
    sizes = {"first": (WIDTH, 3), "left": (WIDTH, WIDTH), "right": (WIDTH, WIDTH), "last": (2, WIDTH)}
    weights = [
        numpy_helper.from_array(
            rng.normal(0, (2 / (9 * inputs)) ** 0.5, (outputs, inputs, 3, 3)).astype(np.float32), f"{name}.weight"
        )
        for name, (outputs, inputs) in sizes.items()
    ]
    nodes = [
        conv("first", "images", "a"),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        conv("left", "b", "c"),
        conv("right", "b", "d"),
        helper.make_node("Add", ["c", "d"], ["e"], "add"),
        helper.make_node("Relu", ["e"], ["f"], "relu2"),
        conv("last", "f", "out"),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2, 8, 8])
    graph = helper.make_graph(nodes, "residual", [image], [out], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def some_images(count: int = 6) -> list[Batch]:
    rng = np.random.default_rng(1)
    return [{"images": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def network() -> Callable[[], onnx.ModelProto]:
    """Builds the network, always the same."""
    return residual_network


@pytest.fixture
def images() -> list[Batch]:
    """Six images of noise."""
    return some_images()


@pytest.fixture
def formats() -> Callable[..., Formats]:
    """The network in the precisions that are asked for."""

    def made(*precisions: str) -> Formats:
        return formats_of(Artifact(residual_network()), precisions, Ptq(kind="ptq"), some_images())

    return made


@pytest.fixture(scope="session")
def two_machines() -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Starts a Ray cluster: two machines of one core, which are raylets of this one, and a head that takes no tasks."""

    @contextlib.contextmanager
    def started() -> Iterator[Any]:
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_worker_niceness", "0")  # or other programs of the machine leave tasks nothing
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
            yield cluster
        finally:
            cluster.shutdown()

    return started


@pytest.fixture
def killing() -> Callable[..., threading.Thread]:
    """Kills the second machine of a cluster as soon as something is so, and does something then."""

    def start(cluster: Any, when: Callable[[], bool], then: Callable[[], object] = list) -> threading.Thread:
        def kill() -> None:
            while not when():
                time.sleep(0.05)
            cluster.remove_node(cluster.workers[1], allow_graceful=False)
            then()

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        return thread

    return start
