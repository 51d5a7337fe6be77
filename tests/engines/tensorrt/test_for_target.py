"""A recipe's engine `trt`: which dialect its network is given in, by its target or by what the TensorRT here has."""

import json

import onnx
import pytest

from avcompress.recipe import TrtEngine
from avcompress.spec import EngineBuildError, LayerPlan, RecipeError
from engines.build import build_engine
from engines.capabilities import capabilities
from engines.layer_map import compare
from engines.planned import plan_in
from engines.tensorrt import for_target
from engines.tensorrt.for_target import wanted_by


@pytest.fixture
def build(tmp_path, in_process, tensorrt, monkeypatch):
    """Build a network with a version of the fake; returns what was built, what was asked, and what it was given."""

    def run(model, version, **engine):
        tensorrt(version, dla_cores=2)
        given = []

        def keep(path, folder, settings, track):
            given.append(onnx.load(path))
            return real(path, folder, settings, track)

        real = for_target.build_tensorrt
        monkeypatch.setattr(for_target, "build_tensorrt", keep)
        onnx.save(model, tmp_path / "net.onnx")
        built = build_engine(tmp_path / "net.onnx", tmp_path / "engine", TrtEngine(backend="trt", **engine))
        return built, json.loads((built.folder / "model.engine").read_bytes()), given[0]

    return run


@pytest.mark.parametrize(
    ("version", "target", "dialect", "flags"),
    [
        ("8.5.2", None, "weak", ["INT8"]),
        ("8.6.1", "orin-agx@jetpack-6.0", "weak", ["INT8"]),
        ("10.3.0", None, "strong", []),
        ("10.3.0", "orin-agx@jetpack-6.2", "strong", []),
        ("11.4.1", None, "strong", []),
        ("11.4.1", "thor", "strong", []),
    ],
)
def test_the_network_is_written_in_the_dialect_of_the_target_or_of_what_is_here(
    build, two_convs, quantize, version, target, dialect, flags
):
    built, asked, given = build(quantize(two_convs, ["c1", "c2"]), version, target=target)

    assert (built.dialect, asked["flags"]) == (dialect, flags)
    # The weak dialect has float weights with Q and DQ, as TensorRT 8 reads them.
    quantized_weights = sum(node.op_type == "QuantizeLinear" for node in given.graph.node)
    assert quantized_weights == (4 if dialect == "weak" else 2)


def test_a_network_newer_than_tensorrt_8_reads_is_lowered_for_it(build, two_convs, quantize):
    model = quantize(two_convs, ["c1"])
    model.opset_import[0].version = 19

    assert build(model, "8.6.1")[2].opset_import[0].version <= 17


@pytest.mark.parametrize(
    ("version", "dialect"), [("8.6.1", "dla-implicit"), ("10.7.0", "dla-implicit"), ("11.4.1", "strong")]
)
def test_a_dla_is_told_by_what_the_tensorrt_here_has(build, two_convs, quantize, version, dialect):
    built, asked, given = build(quantize(two_convs, ["c1", "c2"]), version, dla=0, dla_fallback="list")

    assert (built.dialect, asked["dla_core"]) == (dialect, 0)
    implicit = dialect == "dla-implicit"
    assert ("DequantizeLinear" not in {node.op_type for node in given.graph.node}) == implicit
    # Without ranges only the output that a Q/DQ reads has a scale.
    told = {name: kind for name, kind in built.told.items() if name in {"c1", "c2"}}
    assert told == ({"c1": "int8", "c2": "fp16"} if implicit else {})
    assert any("runs in FP16" in note for note in built.notes) == implicit


def test_what_was_told_apart_from_the_graph_is_what_the_engine_is_held_against():
    plan = (LayerPlan("c1", "Conv", "int8", "", 1), LayerPlan("c2", "Conv", "fp16", "cast", 1))
    told = {"c1": "fp16"}

    assert [each.name for each in compare(plan_in("strong", plan, {}), {"c1": "int8", "c2": "fp32"})] == ["c2"]
    # Weakly typed, FP16 is the builder's choice.
    assert compare(plan_in("weak", plan, {}), {"c1": "int8", "c2": "fp32"}) == ()
    assert [each.name for each in compare(plan_in("dla-implicit", plan, told), {"c1": "int8", "c2": "fp16"})] == ["c1"]


def test_a_target_of_another_tensorrt_than_the_one_here_is_refused(build, two_convs):
    with pytest.raises(EngineBuildError, match="has no strongly typed networks"):
        build(two_convs, "8.6.1", target="orin-agx@jetpack-6.2")


def test_what_a_dialect_cannot_say_names_the_network(build, two_convs):
    model = onnx.ModelProto.FromString(two_convs.SerializeToString())
    model.graph.node[1].op_type, model.graph.node[1].domain = "NoSuchOperator", "own"
    model.opset_import.add(domain="own", version=1)

    with pytest.raises(EngineBuildError, match=r"^check: net\.onnx: "):
        build(model, "8.6.1", dla=0)


@pytest.mark.parametrize(
    ("target", "dla", "message"),
    [
        ("rtx-4090", None, "rtx-4090@tensorrt-rtx-1.7: expected a platform that runs TensorRT, got tensorrt-rtx"),
        ("cpu", None, "expected a platform that runs TensorRT"),
        ("orin-agxx", None, "did you mean orin-agx"),
        ("thor", 0, "expected a DLA"),
    ],
)
def test_a_target_that_cannot_be_is_refused(target, dla, message):
    with pytest.raises(RecipeError, match=message):
        wanted_by(TrtEngine(backend="trt", target=target, dla=dla))


def test_a_target_s_parser_decides_how_new_the_network_may_be():
    assert capabilities(wanted_by(TrtEngine(backend="trt", target="drive-orin")).lint).newest_opset == 17
