import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from avcompress.spec import ModelError
from engines.onnx_weights import load_weights_, stored_tensors

FLOAT = onnx.TensorProto.FLOAT


@pytest.fixture
def saved(tmp_path):
    """A network whose initializers, whose constant, and whose constants in branches lie in `all.bin`."""
    one, two, three = (
        numpy_helper.from_array(np.full(4, value, np.float32), name)
        for name, value in zip("abc", (1, 2, 3), strict=True)
    )
    result = helper.make_tensor_value_info("r", FLOAT, (4,))
    branch = helper.make_graph([helper.make_node("Constant", [], ["r"], value=three)], "branch", [], [result])
    condition = numpy_helper.from_array(np.array(True), "condition")
    nodes = [
        helper.make_node("Constant", [], ["two"], value=two),
        helper.make_node("If", ["condition"], ["three"], then_branch=branch, else_branch=branch),
        helper.make_node("Sum", ["x", "a", "two", "three"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, FLOAT, (4,)) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [one, condition]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(
        model,
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="all.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    return tmp_path / "net.onnx"


def test_weights_are_read_wherever_in_the_graph_they_are(saved, tmp_path):
    import onnxruntime

    model = onnx.load(saved, load_external_data=False)
    assert sorted(each.name for each in stored_tensors(model)) == ["a", "b", "c", "c", "condition"]

    load_weights_(model, tmp_path)

    assert stored_tensors(model) == []
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.zeros(4, np.float32)})[0].tolist() == [6.0] * 4


def test_a_lost_file_and_a_short_one_are_one_line_each(saved, tmp_path):
    weights = tmp_path / "all.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"expected readable weights of '.*' in 'all\.bin', got: .*; export the model"):
        load_weights_(onnx.load(saved, load_external_data=False), tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"expected the weights file 'all\.bin' beside it, got nothing of that name"):
        load_weights_(onnx.load(saved, load_external_data=False), tmp_path)


def stated(saved, tmp_path, **changes):
    """What is said of the network, one of whose tensors says something else."""
    model = onnx.load(saved, load_external_data=False)
    tensor = stored_tensors(model)[0]
    if "type" in changes:
        tensor.data_type = changes["type"]
    else:
        (length,) = (each for each in tensor.external_data if each.key == "length")
        tensor.external_data.remove(length)
    with pytest.raises(ModelError) as caught:
        load_weights_(model, tmp_path)
    return str(caught.value)


def test_a_short_file_is_noticed_where_the_network_does_not_say_how_long_it_is(saved, tmp_path):
    (tmp_path / "all.bin").write_bytes(b"1234")
    assert stated(saved, tmp_path) == "expected 16 bytes of 'a' in 'all.bin', got 4; copy the weights again"


def test_a_type_that_onnx_does_not_have_is_one_line(saved, tmp_path):
    said = stated(saved, tmp_path, type=99)
    assert said == "expected weights of a type that ONNX has, got type 99 of 'a'; export it again"
