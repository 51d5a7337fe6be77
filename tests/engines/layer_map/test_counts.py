import json

import onnx
import pytest

from avcompress.recipe import RtxEngine
from avcompress.spec import EngineError
from engines.layer_map import Counts, count_layers, layers_json, read_counts
from engines.network import weighted_nodes


def test_layers_are_counted_by_what_they_are(layer):
    layers = [
        layer("c1", "correlation", ("Int8",), ("Int8",), "c1"),
        layer("c2", "correlation", ("Int8",), ("Int8",), "c2"),
        layer("c3", "correlation", ("Float",), ("Float",), "c3"),
        layer("k+v", "gemm", ("Int8",), ("Int8",), "k", "v"),
        layer("lost", "gemm", ("Half",), ("Half",), "bias"),
        layer("__myl_MulMinMaxRounCast_myl0_1", "kgen", ("Float",), ("Float",), moved_bytes=500),
        layer("__myl_CastMul_myl0_2", "kgen", (), ("Int8", "Float"), moved_bytes=40),
        layer("__myl_MulAddReluMulMinMaxRounCast_myl0_3", "kgen", ("Float",), (), "c1", moved_bytes=7),
        layer("__myl_MoveConc_myl0_4", "kgen", ("Int8",), (), moved_bytes=60),
        layer("__myl_CastTran_myl0_5", "kgen", ("Half",), (), moved_bytes=6),
        layer("entry", "wait", (), ()),
    ]

    assert count_layers(layers, ["c1", "c2", "c3", "k", "v"]) == Counts(
        products={"correlation": {"fp32": 1, "int8": 2}, "gemm": {"fp16": 1, "int8": 1}},
        conversions=2,
        conversion_bytes=66,
        loose_qdq=2,
        loose_qdq_bytes=540,
        horizontal=1,
        nameless=1,
    )


def test_reformats_are_told_apart_by_what_they_are_for(layer):
    layers = [
        layer("a", "Reformat", ("Float",), (), origin="QDQ", moved_bytes=5),
        layer("b", "Reformat", ("Int8",), (), origin="REFORMAT", moved_bytes=7),
        layer("c", "Reformat", ("Int8",), (), moved_bytes=None),
    ]

    counts = count_layers(layers, [])

    assert (counts.loose_qdq, counts.loose_qdq_bytes) == (1, 5)
    assert (counts.conversions, counts.conversion_bytes) == (2, None)


def test_the_layer_map_is_written_as_json_and_its_counts_are_read_back(layer, tmp_path):
    layers = [layer("n", "gemm", ("Int8",), ("Int8",), "a")]
    path = tmp_path / "layers.json"

    path.write_text(layers_json(layers, {"a": "int8"}, count_layers(layers, ["a"])))

    content = json.loads(path.read_text())
    assert content["precisions"] == {"a": "int8"}
    assert content["layers"][0]["nodes"] == ["a"]
    assert read_counts(path) == count_layers(layers, ["a"])
    path.write_text(layers_json(layers, {"a": "int8"}))
    assert read_counts(path) is None


@pytest.mark.parametrize("content", [None, "", "[]", '{"counts": {"products": {}}}', '{"counts": 3}'])
def test_what_is_no_layer_map_is_one_line(tmp_path, content):
    path = tmp_path / "layers.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(EngineError, match=r"layers\.json: expected a layer map"):
        read_counts(path)


@pytest.mark.rtx
def test_a_real_engine_is_counted(every_kind, quantize, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    from engines.tensorrt.build import build_rtx

    names = weighted_nodes(every_kind)
    onnx.save(quantize(every_kind, set(names) - {"transposed"}), tmp_path / "net.onnx")
    (tmp_path / "engine").mkdir()

    build_rtx(tmp_path / "net.onnx", tmp_path / "engine", RtxEngine(backend="trt_rtx", compute_capabilities=("sm86",)))

    counts = read_counts(tmp_path / "engine" / "layers.json")
    assert counts.products["correlation"] == {"int8": 8}
    assert counts.products["deconv"] == {"fp32": 1}
    assert sum(counts.products["gemm"].values()) >= 5
    assert counts.horizontal == 1  # two of query, key and value
    assert counts.nameless == 0
    assert counts.loose_qdq >= 2  # of the two inputs of the network
    assert counts.loose_qdq_bytes > 32 * 32 * 3 * 4
