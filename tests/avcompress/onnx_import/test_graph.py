"""avcompress.onnx_import: whole networks, names, what is trained, what is refused."""

import copy
import io
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from avcompress.export import to_onnx
from avcompress.onnx_import import import_onnx
from avcompress.onnx_import.graph import names_of
from avcompress.spec import ModelError
from engines.onnx_load import load_onnx


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape or (1, 3, 64, 64)).astype(np.float32)


@pytest.fixture
def small(network):
    """A convolution whose names no Python attribute could have, an activation, a residual sum."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["in.put", "1.w/x", "class"], ["/c:0"], "/c", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["/c:0"], ["r"], "relu"),
        helper.make_node("Add", ["r", "in.put"], ["sum"], "add"),
        helper.make_node("Mul", ["sum", "factor"], ["out"], "mul"),
    ]
    constants = {
        "1.w/x": rng.normal(0, 1, (3, 3, 3, 3)).astype(np.float32),
        "class": rng.normal(0, 1, 3).astype(np.float32),
        "factor": np.array(2, np.float32),
    }
    return network(nodes, {"in.put": image(1, 3, 5, 5)}, constants, ["out"])


def test_every_architecture_gives_the_numbers_of_onnx_runtime(architecture, onnx_network, agree):
    agree(onnx_network(architecture), {"images": image()})


def test_several_images_give_what_each_gives_alone(architecture, onnx_network):
    module = import_onnx(onnx_network(architecture))
    images = torch.from_numpy(image(2, 3, 64, 64))

    with torch.no_grad():
        both, alone = flat(module(images)), [flat(module(images[i : i + 1])) for i in range(2)]

    for together, *apart in zip(both, *alone, strict=True):
        torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-4 * float(together.abs().max()))


def flat(value):
    return value if isinstance(value, tuple) else (value,)


def test_every_parameter_of_an_architecture_gets_a_gradient(architecture, onnx_network):
    module = import_onnx(onnx_network(architecture))

    sum(output.square().mean() for output in flat(module(torch.from_numpy(image())))).backward()

    without = [name for name, p in module.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


def test_weights_of_layers_are_trained_and_other_constants_are_not(small):
    module = import_onnx(small)

    assert module.meta["parameters"] == {"1.w/x": "t1_w_x", "class": "class_1"}
    assert module.meta["buffers"] == {"factor": "factor"}
    assert [name for name, _ in module.named_parameters()] == ["t1_w_x", "class_1"]


def test_every_fx_node_says_which_onnx_node_and_tensors_it_is(small):
    module = import_onnx(small)

    found = [n.meta["onnx"] for n in module.graph.nodes if n.op != "output"]
    assert found == [
        ("", ("in.put",)),
        ("", ("1.w/x",)),
        ("", ("class",)),
        ("/c", ("/c:0",)),
        ("relu", ("r",)),
        ("add", ("sum",)),
        ("", ("factor",)),
        ("mul", ("out",)),
    ]
    assert [n.meta["onnx_op"] for n in module.graph.nodes if n.op == "call_function"] == ["Conv", "Relu", "Add", "Mul"]
    assert module.meta["inputs"] == ("in.put",)
    assert module.meta["outputs"] == ("out",)


def test_the_nodes_of_split_tensors_are_found_by_name(network):
    node = helper.make_node("Split", ["x"], ["a", "b"], "split", axis=1)
    model = network([node], {"x": image(1, 4, 2, 2)}, {}, ["a", "b"])

    nodes = names_of(import_onnx(model).graph.nodes)

    assert set(nodes) == {"x", "a", "b"}
    assert nodes["a"].meta["onnx"] == ("split", ("a",))


def test_a_module_can_be_copied_and_saved(small):
    module = import_onnx(small)
    data = torch.from_numpy(image(1, 3, 5, 5))
    again = copy.deepcopy(module)

    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))

    assert torch.equal(again(data), module(data))
    assert [n.meta.get("onnx") for n in again.graph.nodes] == [n.meta.get("onnx") for n in module.graph.nodes]


def test_training_changes_neither_the_onnx_model_nor_another_import(small):
    before = small.SerializeToString()
    module, other = import_onnx(small), import_onnx(small)

    with torch.no_grad():
        module.t1_w_x.zero_()

    assert small.SerializeToString() == before
    assert other.t1_w_x.abs().sum() > 0


def test_several_inputs_and_outputs(network, agree):
    nodes = [helper.make_node("Add", ["a", "b"], ["s"], "s"), helper.make_node("Relu", ["s"], ["r"], "r")]
    feeds = {"a": image(1, 2, 3), "b": image(1, 2, 3, seed=1)}

    agree(network(nodes, feeds, {}, ["s", "r"]), feeds)


def test_a_weight_that_two_layers_share_is_one_parameter(network, agree):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "m"), helper.make_node("MatMul", ["m", "w"], ["y"], "n")]
    feeds = {"x": image(1, 4, 4)}

    module = agree(network(nodes, feeds, {"w": image(4, 4, seed=1)}, ["y"]), feeds)

    assert len(list(module.parameters())) == 1


def test_an_output_may_be_an_input_or_a_constant(network, agree):
    feeds = {"x": image(1, 2)}
    nodes = [helper.make_node("Identity", ["x"], ["y"], "i"), helper.make_node("Relu", ["c"], ["z"], "r")]

    agree(network(nodes, feeds, {"c": image(2)}, ["y", "z"]), feeds)


def test_equal_node_names_are_made_unique(network):
    nodes = [helper.make_node("Relu", ["x"], ["a"], "n"), helper.make_node("Relu", ["a"], ["y"], "n")]
    module = import_onnx(network(nodes, {"x": image(1, 2)}, {}, ["y"]))

    assert [n.meta["onnx"][0] for n in module.graph.nodes if n.op == "call_function"] == ["n", "n_1"]


def _branching(condition: list, feeds: dict) -> onnx.ModelProto:
    """An If around a Squeeze, as torch's exporter writes it, whose condition the given nodes compute."""
    one = onnx.numpy_helper.from_array(np.array([0]), "one")
    squeeze = [helper.make_node("Constant", [], ["axes"], value=one), helper.make_node("Squeeze", ["r", "axes"], ["s"])]
    same = [helper.make_node("Identity", ["r"], ["i"])]
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "si"]
    branches = {
        "then_branch": helper.make_graph(squeeze, "then", [], info[:1]),
        "else_branch": helper.make_graph(same, "else", [], info[1:]),
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        *condition,
        helper.make_node("If", ["c"], ["y"], name="/if", **branches),
        helper.make_node("Sigmoid", ["y"], ["z"]),
    ]
    constants = {"k": np.array(1), "n": np.array(1)}
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, feeds["x"].shape)]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize("channels", [1, 3])
def test_of_a_branch_that_shapes_decide_the_taken_one_is_lowered_under_the_name_outside(channels, agree):
    feeds = {"x": image(1, channels, 4, 4)}
    by_shape = [
        helper.make_node("Shape", ["x"], ["h"]),
        helper.make_node("Gather", ["h", "k"], ["d"]),
        helper.make_node("Equal", ["d", "n"], ["c"]),
    ]

    module = agree(_branching(by_shape, feeds), feeds)

    assert "y" in names_of(module.graph.nodes)


def test_a_branch_that_values_decide_is_refused():
    feeds = {"x": image(1, 1, 4, 4)}
    by_value = [helper.make_node("ReduceSum", ["x"], ["t"], keepdims=0), helper.make_node("Cast", ["t"], ["c"], to=9)]

    with pytest.raises(ModelError, match=r"node '/if' \(If\): expected an operator that can be trained through"):
        import_onnx(_branching(by_value, feeds))


def test_an_unknown_operator_is_named(network):
    node = helper.make_node("Det", ["x"], ["y"], "det")

    with pytest.raises(ModelError, match=r"^node 'det' \(Det\): expected .*, got one it does not; rewrite it"):
        import_onnx(network([node], {"x": image(2, 2)}, {}, ["y"]))


def test_all_unknown_operators_are_told_at_once(network):
    nodes = [helper.make_node("Det", ["x"], ["y"], "det"), helper.make_node("NonZero", ["x"], ["z"], "nz")]

    with pytest.raises(
        ModelError, match=r"^node 'det' \(Det\): expected .*, got one it does not, nor NonZero; rewrite"
    ):
        import_onnx(network(nodes, {"x": image(2, 2)}, {}, ["y", "z"]))


def test_an_operator_of_another_domain_is_named(network):
    model = network([helper.make_node("Relu", ["x"], ["y"], "mine")], {"x": image(2, 2)}, {}, ["y"])
    model.graph.node[0].domain = "com.acme"

    with pytest.raises(ModelError, match=r"node 'mine' \(Relu\): expected an operator of ONNX, got one of 'com.acme'"):
        import_onnx(model)


def test_a_dynamic_input_is_refused(small):
    small.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"

    with pytest.raises(ModelError, match=r"input 'in\.put': expected a static shape"):
        import_onnx(small)


def test_shapes_that_do_not_fit_are_an_error_of_the_node(small):
    small.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4

    with pytest.raises(ModelError, match=r"node '/c' \(Conv\): expected inputs that fit together"):
        import_onnx(small)


def test_a_tensor_that_nothing_computes_is_an_error(small):
    small.graph.node[1].input[0] = "gone"

    with pytest.raises(ModelError, match=r"node 'relu' \(Relu\): expected 'gone' before it"):
        import_onnx(small)


@pytest.mark.slow
def test_yolox_nano_gives_the_numbers_of_onnx_runtime(data_root, agree):
    model = load_onnx(data_root / "models" / "yolox_nano.onnx")
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)

    module = agree(model, {"images": pixels})

    assert len(module.meta["parameters"]) == 2 * sum(node.op_type == "Conv" for node in model.graph.node)


@pytest.fixture
def espnet_onnx(data_root, monkeypatch):
    """ESPNet with its published weights."""
    from pathlib import Path

    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3] / "examples"), *sys.path])
    from espnet import espnet

    module = espnet()
    weights = data_root / "models" / "espnet_p_2_q_8_camvid.pth"
    module.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return to_onnx(module, (360, 480))


@pytest.mark.slow
def test_espnet_gives_the_numbers_of_onnx_runtime(espnet_onnx, agree):
    assert isinstance(espnet_onnx, onnx.ModelProto)
    agree(espnet_onnx, {"images": image(1, 3, 360, 480)})
