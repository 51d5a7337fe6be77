import numpy as np
import onnx
import pytest
from onnx import helper

from avcompress.spec import ModelError
from engines.lint import fix, lint, lint_file, read_model, to_bytes

TARGET = "tensorrt-rtx"


@pytest.fixture
def model(net):
    n = net()
    return n.model(n.conv("x", data=n.qdq("x", zero=np.uint8(128)), weight=n.weight(32, 16, 3, 3, zero=np.uint8(128))))


@pytest.fixture
def outside(model, tmp_path):
    """A model whose weights, scales and zero points all lie in another file."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())  # saving moves the weights out of what is saved
    onnx.save(copy, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    return tmp_path / "net.onnx"


def test_weights_in_another_file_are_read_where_a_rule_needs_them(model, outside):
    assert lint_file(outside, TARGET) == lint(model, TARGET)


def test_reading_leaves_the_weights_where_they_are(outside):
    read = read_model(outside)
    lint(read, TARGET, outside.parent)

    assert all(not tensor.raw_data for tensor in read.graph.initializer)


@pytest.mark.parametrize("folder", [".", "elsewhere"])
def test_a_repaired_model_finds_its_weights_wherever_it_is_written(model, outside, folder, tmp_path):
    out = tmp_path / folder / "fixed.onnx"
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(to_bytes(fix(read_model(outside), TARGET, outside.parent).model, outside, out))

    assert onnx.load(out).graph.node == fix(model, TARGET).model.graph.node
    onnx.checker.check_model(str(out), full_check=True)
    assert not any(finding.severity == "refused" for finding in lint_file(out, TARGET))


def test_too_many_weights_are_left_where_they_lie(outside, tmp_path):
    read = read_model(outside)
    entry = next(e for e in read.graph.initializer[0].external_data if e.key == "length")
    entry.value = str(3 * 2**30)

    with pytest.raises(ModelError, match=r"expected a file beside .*3\.0 GB"):
        to_bytes(read, outside, tmp_path / "elsewhere" / "fixed.onnx")


def test_a_missing_file_of_weights_is_named(outside):
    (outside.parent / "net.bin").unlink()

    with pytest.raises(ModelError, match=r"expected the weights file 'net.bin' beside it"):
        read_model(outside)


def test_a_truncated_file_of_weights_is_named(outside):
    (outside.parent / "net.bin").write_bytes(b"")

    with pytest.raises(ModelError, match=r"expected to read them from the file beside the model"):
        lint_file(outside, TARGET)


@pytest.mark.parametrize(
    ("content", "part"), [(b"", "without a graph"), (b"plain text", "something else or a truncated one")]
)
def test_what_is_no_model_is_refused(tmp_path, content, part):
    (tmp_path / "net.onnx").write_bytes(content)

    with pytest.raises(ModelError, match=part):
        read_model(tmp_path / "net.onnx")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(ModelError, match="got a folder"):
        read_model(tmp_path)
    with pytest.raises(ModelError, match="nothing of that name"):
        read_model(tmp_path / "none.onnx")


def test_functions_are_inlined(net, tmp_path):
    n = net()
    model = n.model(n.op("Rounded", "x", domain="own"), domains=["own"])
    scale = helper.make_node("Constant", [], ["s"], value_float=0.05)
    zero = helper.make_node("Constant", [], ["z"], value=helper.make_tensor("z", 3, [], [3]))
    body = [
        scale,
        zero,
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["b"]),
    ]
    model.functions.append(helper.make_function("own", "Rounded", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    onnx.save(model, tmp_path / "net.onnx")

    assert "zero_point" in {finding.rule for finding in lint_file(tmp_path / "net.onnx", TARGET)}
