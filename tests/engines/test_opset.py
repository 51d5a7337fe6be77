import numpy as np
import onnx
import pytest
from onnx import helper

from avcompress.spec import ModelError
from engines.in_memory import open_model
from engines.opset import at_opset, opset_of


def test_a_newer_opset_computes_the_same_under_the_same_names(every_kind):
    rng = np.random.default_rng(0)
    shapes = {"image": (1, 3, 32, 32), "tokens": (1, 64, 32)}
    feeds = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}

    for version in (19, 21, 22, 23):
        new = at_opset(every_kind, version, "the test")
        assert opset_of(new) == version
        assert [(n.name, *n.input, *n.output) for n in new.graph.node] == [
            (n.name, *n.input, *n.output) for n in every_kind.graph.node
        ]
        for a, b in zip(open_model(every_kind).run(None, feeds), open_model(new).run(None, feeds), strict=True):
            assert np.array_equal(a, b)


def test_a_model_that_is_new_enough_is_the_same_object(two_convs):
    assert at_opset(two_convs, 17, "the test") is two_convs
    assert opset_of(two_convs) == 17


def test_other_domains_are_kept(two_convs):
    model = onnx.ModelProto.FromString(two_convs.SerializeToString())
    model.graph.node[1].domain = "com.acme"
    model.graph.node[1].op_type = "Bend"
    model.opset_import.append(helper.make_opsetid("com.acme", 3))

    new = at_opset(model, 21, "the test")

    assert {o.domain: o.version for o in new.opset_import} == {"": 21, "com.acme": 3}
    assert [n.op_type for n in new.graph.node] == ["Conv", "Bend", "Conv", "Add", "Relu"]


def test_a_model_that_does_not_convert_is_refused_in_one_line(two_convs):
    model = onnx.ModelProto.FromString(two_convs.SerializeToString())
    model.graph.node[1].op_type = "Upsample"

    with pytest.raises(ModelError) as error:
        at_opset(model, 21, "INT4")
    assert "\n" not in str(error.value)

    model.graph.node[1].op_type = "Nonsense"
    with pytest.raises(ModelError, match="expected a model that converts from opset 17 to 21, which INT4 needs"):
        at_opset(model, 21, "INT4")


def test_a_model_that_states_no_opset_has_none():
    assert opset_of(onnx.ModelProto()) == 0


def test_nodes_that_the_conversion_adds_leave_only_constants_behind():
    """The axes of ReduceMax are an attribute until opset 18, and then an input."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4,8,8] x) => (float[1,4,1,1] y) {
        [first] a = ReduceMax <axes = [3]> (x)
        [second] y = ReduceMean <axes = [2]> (a)
    }
    """
    model = onnx.parser.parse_model(text)
    x = np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)

    new = at_opset(model, 21, "INT4")

    assert [node.name for node in new.graph.node] == ["first", "second"]
    assert np.array_equal(open_model(new).run(None, {"x": x})[0], open_model(model).run(None, {"x": x})[0])
