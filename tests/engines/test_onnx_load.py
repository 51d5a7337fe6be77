"""engines.onnx_load: what is refused, in one line, and the form of what is read."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.spec import ModelError
from engines.onnx_load import load_onnx


def conv_net(opset=17, shape=(1, 3, 8, 8), nodes=None, weight=None, ir_version=8):
    weight = np.ones((4, 3, 3, 3), np.float32) if weight is None else weight
    nodes = nodes or [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def saved(model, tmp_path, **kwargs):
    path = tmp_path / "net.onnx"
    onnx.save(model, path, **kwargs)
    return path


def run(model, x):
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def refusal(path, *args):
    with pytest.raises(ModelError) as caught:
        load_onnx(path, *args)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# --- files


def test_a_missing_file_is_refused(tmp_path):
    assert "got nothing of that name" in refusal(tmp_path / "no.onnx")


def test_a_folder_is_refused(tmp_path):
    assert "got a folder" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"hello, this is not a network\n", b"\x00" * 64, b"\xff" * 9])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)

    assert "expected an ONNX file" in refusal(path)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    path.touch()

    assert "got an empty one" in refusal(path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content = conv_net().SerializeToString()
    path = tmp_path / "net.onnx"
    for length in range(1, len(content), 37):
        path.write_bytes(content[:length])
        refusal(path)


def test_a_model_without_outputs_is_refused(tmp_path):
    model = conv_net()
    del model.graph.output[:]

    assert "expected a graph with nodes and outputs" in refusal(saved(model, tmp_path))


def test_what_the_checker_rejects_is_refused_with_its_first_line(tmp_path):
    model = conv_net(nodes=[helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Reluu", ["c"], ["y"])])

    assert "No Op registered for Reluu" in refusal(saved(model, tmp_path))


def test_an_input_that_nothing_produces_is_refused(tmp_path):
    model = conv_net(nodes=[helper.make_node("Conv", ["x", "ghost"], ["y"])])

    assert "ghost" in refusal(saved(model, tmp_path))


# --- weights


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, dtype, bad):
    model = conv_net()
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, bad], dtype), "spoiled"))

    assert "NaN or infinity in 'spoiled'" in refusal(saved(model, tmp_path))


def test_weights_stored_beside_the_file_are_read(tmp_path):
    model = conv_net(weight=np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32))
    path = saved(model, tmp_path, save_as_external_data=True, location="net.bin", size_threshold=0)
    x = np.ones((1, 3, 8, 8), np.float32)

    loaded = load_onnx(path)

    (tmp_path / "net.bin").unlink()  # all of it is in memory
    assert np.array_equal(run(loaded, x), run(conv_net(weight=numpy_helper.to_array(loaded.graph.initializer[0])), x))


def test_a_missing_weights_file_is_named(tmp_path):
    path = saved(conv_net(), tmp_path, save_as_external_data=True, location="net.bin", size_threshold=0)
    (tmp_path / "net.bin").unlink()

    assert "expected the weights file 'net.bin' beside it" in refusal(path)


def test_a_short_weights_file_is_refused(tmp_path):
    path = saved(conv_net(), tmp_path, save_as_external_data=True, location="net.bin", size_threshold=0)
    (tmp_path / "net.bin").write_bytes(b"1234")

    assert "'net.bin'" in refusal(path)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    assert "NaN or infinity in 'w'" in refusal(
        saved(conv_net(weight=np.full((4, 3, 3, 3), value, np.float32)), tmp_path)
    )


def test_weights_without_values_are_refused(tmp_path):
    assert "got 'w' of 0x3x3x3" in refusal(saved(conv_net(weight=np.ones((0, 3, 3, 3), np.float32)), tmp_path))


def test_an_infinite_padding_before_a_maximum_is_no_weight(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Pad", ["c", "pads", "low"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[2, 2]),
    ]
    model = conv_net(nodes=nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1]), "pads"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-np.inf), "low"))

    assert np.isfinite(run(load_onnx(saved(model, tmp_path)), np.ones((1, 3, 8, 8), np.float32))).all()


def test_a_network_above_two_gigabytes_is_refused_before_its_weights_are_read(tmp_path):
    model = conv_net()
    (tensor,) = (t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.dims[0] = 2**31 // int(np.prod(tensor.dims[1:]))
    onnx.external_data_helper.set_external_data(tensor, "net.bin")
    tensor.ClearField("raw_data")
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "net.bin").open("wb") as file:
        file.truncate(2**33)  # takes no room on the disk

    assert "less than 2 GB" in refusal(path)
    assert "got 8.0 GB" in refusal(path)


def test_weights_outside_the_folder_are_refused(tmp_path):
    model = conv_net()
    (tmp_path / "secret").write_bytes(bytes(4 * 4 * 3 * 3 * 3))
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../secret")
    tensor.ClearField("raw_data")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "net.onnx"
    path.write_bytes(model.SerializeToString())

    assert "secret" in refusal(path)


def test_weights_in_constant_nodes_and_behind_identities_become_initializers(tmp_path):
    weight = numpy_helper.from_array(np.ones((3, 3, 3, 4), np.float32), "value")
    model = conv_net(
        nodes=[
            helper.make_node("Constant", [], ["k"], value=weight),
            helper.make_node("Transpose", ["k"], ["t"], perm=[3, 0, 1, 2]),
            helper.make_node("Identity", ["t"], ["i"]),
            helper.make_node("Conv", ["x", "i"], ["y"]),
        ]
    )

    loaded = load_onnx(saved(model, tmp_path))

    assert [node.op_type for node in loaded.graph.node] == ["Conv"]
    assert [(t.name, list(t.dims)) for t in loaded.graph.initializer] == [("i", [4, 3, 3, 3])]


def test_a_model_that_is_quantized_already_is_refused(tmp_path):
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    model = conv_net(
        nodes=[
            helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
        ]
    )
    model.graph.initializer.append(scale)

    assert "already quantized (QuantizeLinear" in refusal(saved(model, tmp_path))


# --- inputs


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1, 3, 8), "FLOAT"),
        ((1, 4, 8, 8), "FLOAT"),
        ((2, 3, 8, 8), "FLOAT"),
        ((1, "c", 8, 8), "FLOAT"),
        ((1, 3, 8, 8), "UINT8"),
    ],
)
def test_an_input_that_is_no_single_image_is_refused(tmp_path, shape, kind):
    model = conv_net(nodes=[helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)])
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.DataType.Value(kind), shape))

    message = refusal(saved(model, tmp_path))

    assert f"input 'x': expected float32 1x3xHxW, got {kind.lower()} " in message


def test_several_inputs_are_named(tmp_path):
    model = conv_net()
    model.graph.input.append(helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]))

    assert "expected one input, an image, got 'x', 'speed'" in refusal(saved(model, tmp_path))


def test_a_network_without_inputs_is_refused(tmp_path):
    model = conv_net(nodes=[helper.make_node("RandomNormal", [], ["y"], shape=[1, 4, 6, 6])])
    del model.graph.input[:]

    assert "got none" in refusal(saved(model, tmp_path))


def test_a_size_that_differs_from_the_recipe_is_refused(tmp_path):
    message = refusal(saved(conv_net(), tmp_path), (416, 416))

    assert "expected 1x3x416x416 as preprocess.size says, got 1x3x8x8" in message


@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), (None, 3, None, None), (1, 3, "h", 12), ("n", 3, 10, 12)])
def test_dynamic_dimensions_are_fixed_and_the_outputs_follow(tmp_path, shape):
    model = conv_net(shape=shape)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, "a", "b"]))

    loaded = load_onnx(saved(model, tmp_path), (10, 12))

    dims = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*loaded.graph.input, *loaded.graph.output)]
    assert dims == [[1, 3, 10, 12], [1, 4, 8, 10]]


def test_a_dynamic_size_without_a_recipe_is_refused(tmp_path):
    assert "expected a static height and width, got 1x3xhxw" in refusal(
        saved(conv_net(shape=(1, 3, "h", "w")), tmp_path)
    )


# --- form


@pytest.mark.parametrize("opset", range(11, 22))
def test_opsets_from_11_to_21_compute_the_same(tmp_path, opset):
    rng = np.random.default_rng(opset)
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    model = conv_net(opset, weight=rng.standard_normal((4, 3, 3, 3)).astype(np.float32))

    loaded = load_onnx(saved(model, tmp_path))

    assert loaded.opset_import[0].version == (opset if opset >= 13 else 17)
    assert np.allclose(run(loaded, x), run(model, x), atol=1e-6)


def test_an_opset_newer_than_tensorrt_reads_is_refused(tmp_path):
    assert "expected opset 23 at most, got 24" in refusal(saved(conv_net(24, ir_version=12), tmp_path))


def test_operators_of_other_domains_pass_through(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("DeformedThing", ["c"], ["y"], domain="com.acme", strength=3),
    ]
    for opset in (11, 17):
        model = conv_net(opset, nodes=nodes)
        model.opset_import.append(helper.make_opsetid("com.acme", 1))

        loaded = load_onnx(saved(model, tmp_path))

        assert (loaded.graph.node[1].domain, loaded.graph.node[1].attribute[0].i) == ("com.acme", 3)


def test_initializers_among_the_inputs_of_old_files_are_no_inputs(tmp_path):
    model = conv_net(11, ir_version=3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))

    assert [value.name for value in load_onnx(saved(model, tmp_path)).graph.input] == ["x"]


def test_shapes_that_exporters_compute_at_run_time_are_measured(tmp_path):
    model = conv_net(
        nodes=[
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Sin", ["x"], ["sx"]),
            helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Floor", ["f"], ["g"]),
            helper.make_node("Cast", ["g"], ["shape"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["sx", "shape"], ["r"]),
            helper.make_node("Conv", ["r", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
    )

    loaded = load_onnx(saved(model, tmp_path))

    stated = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in loaded.graph.value_info}
    assert (stated["r"], stated["c"]) == ([1, 3, 8, 8], [1, 4, 6, 6])


def test_yolox_nano_keeps_its_names_and_operators(data_root: Path):
    path = data_root / "models" / "yolox_nano.onnx"
    original = onnx.load(path)

    loaded = load_onnx(path, (416, 416))

    assert Counter(n.op_type for n in loaded.graph.node) == Counter(n.op_type for n in original.graph.node)
    assert {n.name for n in loaded.graph.node} == {n.name for n in original.graph.node}
    assert loaded.opset_import[0].version == 17
