"""A network as JSON and safetensors: back in another process, trainable, and refused where the two do not fit."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import safetensors.numpy

from avcompress.float_network import saved_network
from avcompress.prune import channel_groups, load_structure, save_structure, without
from avcompress.spec import ModelError

RELOAD = """
import sys, pathlib, numpy, torch
from avcompress.onnx_import import import_onnx
from avcompress.prune import load_structure
torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
module = import_onnx(load_structure(folder))
image = torch.from_numpy(numpy.load(folder / "image.npy"))
output = module(image)
numpy.save(folder / "output.npy", output.detach().numpy())
optimizer = torch.optim.SGD(module.parameters(), 1e-3)
loss = output.square().mean()
loss.backward()
optimizer.step()
assert module(image).square().mean() < loss
assert "zoo" not in " ".join(sys.modules)
"""


def halved(model):
    coupling = channel_groups(model)
    return without(model, coupling, {group.name: range(len(group.channels) // 2) for group in coupling.groups})


@pytest.fixture
def small(net):
    nodes = """a = Conv <pads = [1,1,1,1]> (x, wa, ba) l = LeakyRelu <alpha = 1.0> (a) r = Reshape (l, size)
        m = ReduceMax <axes = [2], keepdims = 0> (r) y = Gemm <transB = 1> (m, wy)"""
    return net(nodes, {"wa": (6, 3, 3, 3), "ba": (6,), "size": [0, 6, -1], "wy": (4, 6)}, "float[1,4] y")


def test_a_pruned_network_comes_back_in_another_process_and_learns(exported, image, run, tmp_path):
    model = halved(exported("yolov8", keep_norms=True))
    save_structure(model, tmp_path)
    np.save(tmp_path / "image.npy", image)

    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], check=True, timeout=300)

    (expected,) = run(model, image)
    np.testing.assert_allclose(np.load(tmp_path / "output.npy"), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["detr", "segformer", "swin", "shufflenet_v2", "centernet", "subpixel"])
def test_what_comes_back_computes_the_same_bit_for_bit(exported, image, run, tmp_path, name):
    model = halved(exported(name))
    save_structure(model, tmp_path)

    again = load_structure(tmp_path)

    for before, after in zip(run(model, image), run(again, image), strict=True):
        np.testing.assert_array_equal(before, after)
    assert [node.SerializeToString(deterministic=True) for node in again.graph.node] == [
        node.SerializeToString(deterministic=True) for node in model.graph.node
    ]


def test_every_reading_gives_the_same_bytes(exported, tmp_path):
    save_structure(exported("shufflenet_v2"), tmp_path)

    first, *others = (load_structure(tmp_path).SerializeToString(deterministic=True) for _ in range(3))

    assert others == [first, first]


def test_one_and_one_point_zero_an_empty_list_and_a_tensor_stay_what_they_are(small, tmp_path):
    node = small.graph.node[1]
    value = onnx.numpy_helper.from_array(np.array([1.5, 2.0], np.float32))
    extra = {"one": 1, "lists": [1, 2], "floats": [1.0], "text": "a", "texts": ["a", "b"], "tensor": value}
    node.attribute.extend(onnx.helper.make_attribute(name, given) for name, given in extra.items())
    node.attribute.append(onnx.helper.make_attribute("none", [], attr_type=onnx.AttributeProto.INTS))
    node.domain = "somewhere"
    small.opset_import.append(onnx.helper.make_opsetid("somewhere", 1))
    node.metadata_props.add(key="note", value="kept")
    save_structure(small, tmp_path)

    again = load_structure(tmp_path).graph.node[1]

    assert {a.name: a.type for a in again.attribute} == {a.name: a.type for a in node.attribute}
    assert onnx.helper.get_attribute_value(again.attribute[0]) == 1.0
    assert {p.key: p.value for p in again.metadata_props} == {"note": "kept"}
    assert again.domain == "somewhere"


def test_the_structure_can_be_read_without_the_weights(small, tmp_path):
    save_structure(small, tmp_path)

    described = json.loads((tmp_path / "structure.json").read_text())

    assert described["nodes"][0] == {
        "name": "Conv_0",
        "op": "Conv",
        "inputs": ["x", "wa", "ba"],
        "outputs": ["a"],
        "attributes": {"pads": [1, 1, 1, 1]},
    }
    assert described["weights"]["wa"] == {"dtype": "float32", "shape": [6, 3, 3, 3]}
    assert described["sizes"] == {"size": {"dtype": "int64", "values": [0, 6, -1]}}
    assert set(safetensors.numpy.load_file(tmp_path / "weights.safetensors")) == {"wa", "ba", "wy"}


# --- what is refused


def damaged(folder, change):
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    change(weights)
    (folder / "weights.safetensors").write_bytes(safetensors.numpy.save(weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("ba"), r"expected weights of this structure, got none named 'ba'; give the two files of one"),
        (lambda w: w.update(extra=w["ba"]), r"expected weights of this structure, got 'extra' besides; give the two"),
        (
            lambda w: w.update(wa=w["wa"][:4].copy()),
            r"expected 'wa' as float32 6x3x3x3, got float32 4x3x3x3; give the two files of one save_structure",
        ),
        (lambda w: w.update(wa=w["wa"].astype(np.float16)), r"expected 'wa' as float32 6x3x3x3, got float16 6x3x3x3"),
    ],
)
def test_the_weights_of_another_structure_are_refused_by_name_and_shape(small, tmp_path, change, message):
    save_structure(small, tmp_path)
    damaged(tmp_path, change)

    with pytest.raises(ModelError, match=message) as caught:
        load_structure(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: weights.safetensors: ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("structure.json", None, "expected a readable file, got No such file or directory; check the path"),
        ("structure.json", b"{", "expected JSON, got: "),
        ("structure.json", b"\xff\xfe", "expected JSON, got: "),
        ("structure.json", b"[" * 100_000, "expected JSON, got: "),
        ("structure.json", b"[1]", "expected 'avcompress structure 1', got another file; give a folder that"),
        ("structure.json", b'{"format": "avcompress structure 9"}', "got 'avcompress structure 9'; give a folder that"),
        ("structure.json", b'{"format": "avcompress structure 1"}', "expected a structure as save_structure writes it"),
        ("weights.safetensors", None, "expected a readable file, got No such file or directory; check the path"),
        ("weights.safetensors", b"nonsense", "expected safetensors, got: "),
    ],
)
def test_files_that_are_something_else_are_one_line(small, tmp_path, name, content, message):
    save_structure(small, tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(ModelError) as caught:
        load_structure(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_takes_no_weights_that_are_not_finite(small, tmp_path):
    save_structure(small, tmp_path)
    saved_network(tmp_path)
    weights = safetensors.numpy.load_file(tmp_path / "weights.safetensors")
    name = next(iter(weights))
    weights[name].reshape(-1)[0] = np.nan
    safetensors.numpy.save_file(weights, tmp_path / "weights.safetensors")

    with pytest.raises(ModelError) as caught:
        saved_network(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: expected finite weights, got NaN or infinity in {name!r}; ")


def test_a_structure_whose_nodes_do_not_fit_together_is_refused(small, tmp_path):
    save_structure(small, tmp_path)
    described = json.loads((tmp_path / "structure.json").read_text())
    described["nodes"][0]["inputs"][0] = "nothing"
    (tmp_path / "structure.json").write_text(json.dumps(described))

    with pytest.raises(ModelError, match="expected a valid model, got"):
        load_structure(tmp_path)


def test_a_type_that_safetensors_does_not_hold_is_refused_before_anything_is_written(small, tmp_path):
    small.graph.initializer.append(onnx.helper.make_tensor("odd", onnx.TensorProto.COMPLEX64, [1], [1j]))

    with pytest.raises(
        ModelError, match="weight 'odd': expected a type that safetensors holds, got complex64; cast it"
    ):
        save_structure(small, tmp_path)
    assert list(tmp_path.iterdir()) == []
