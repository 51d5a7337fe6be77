"""benchmarks/lowrank_gain.py: half the multiply-accumulates, and the shares that it prints."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "benchmarks")]

import lowrank_gain  # noqa: E402

from avcompress.lowrank.forms import factor_macs  # noqa: E402
from avcompress.lowrank.layers import find_layers  # noqa: E402
from engines.onnx_graph import infer_shapes, macs, name_nodes  # noqa: E402


@pytest.fixture
def network() -> onnx.ModelProto:
    """A convolution of 3x3 from 16 to 24 channels, of rank 4, and images for it."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((24, 4)) @ random.standard_normal((4, 144))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1] * 4)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 16, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight.reshape(24, 16, 3, 3).astype(np.float32), "w")],
    )
    return infer_shapes(name_nodes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))


@pytest.mark.parametrize("method", ["svd", "spatial_svd", "cp"])
def test_half_is_the_highest_rank_in_eights_that_has_at_most_half(network, method):
    (layer,), _ = find_layers(network)

    way = lowrank_gain.at_half(layer, method)

    (rank,) = way.into.ranks
    assert rank % 8 == 0
    assert way.macs <= 0.5 * layer.macs < factor_macs(method, layer.shape, (rank + 8,), layer.extent)


def test_a_layer_without_such_a_rank_is_left_out(network):
    (layer,), _ = find_layers(network)

    assert lowrank_gain.half_ranks(layer, "svd", align=64) is None


def test_errors_are_printed_by_network_and_method(network, capsys, monkeypatch):
    random = np.random.default_rng(1)
    batches = [{"x": random.standard_normal((1, 16, 8, 8)).astype(np.float32)} for _ in range(5)]
    monkeypatch.setattr(lowrank_gain, "real_networks", lambda *_: [("one", network, batches)])

    lowrank_gain.errors(Path(), 5)

    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["svd", "spatial_svd", "tucker2", "cp"]
    # At half its multiply-accumulates svd has more than the four ranks that the layer is made of.
    assert float(rows[0][4]) == 0.0


def test_each_rule_has_a_row_with_what_the_network_takes(network, capsys, monkeypatch):
    monkeypatch.setattr(lowrank_gain, "real_networks", lambda *_: [("one", network, [{"x": np.ones((1, 16, 8, 8))}])])
    monkeypatch.setattr(lowrank_gain, "RULES", {"fourth": {"rank": 4, "method": "svd", "fit": "weight"}})

    lowrank_gain.networks(Path(), 1, lambda nets: tuple(sum(macs(infer_shapes(n)).values()) for n in nets), None, False)

    row = capsys.readouterr().out.splitlines()[2]
    before, after = 24 * 144 * 64, 4 * (144 + 24) * 64
    assert row.startswith(f"| one | fourth | 1 of 1 | 1 svd | {after / before:.0%} | {before}.00 | {after}.00 | 5.14 |")
