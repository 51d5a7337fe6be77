"""Input that means harm or is merely odd, as a user's CI sees it: one line, and no file of the user's touched."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from avcompress.quant.analysis.probe import probe
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import KeepFloat, Ptq
from avcompress.spec import Artifact
from engines.onnx_load import load_onnx

IMAGE = [1, 3, 16, 16]


def network(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """Nodes between `images` and `logits`, after a convolution to `c0`."""
    weight = np.random.default_rng(0).normal(0, 0.3, (3, 3, 1, 1)).astype(np.float32)
    values = [numpy_helper.from_array(value, name) for name, value in {"weight": weight, **constants}.items()]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, IMAGE)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, IMAGE)
    first = helper.make_node("Conv", ["images", "weight"], ["c0"], name="[conv][/nope]")
    graph = helper.make_graph([first, *nodes], "odd", [image], [logits], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


RELU = [helper.make_node("Relu", ["c0"], ["logits"], name="relu")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, a recipe for it, and two images."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(2):
        Image.fromarray(np.full((16, 16, 3), 90 + i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "labels" / f"{i}.png")
    recipe: dict[str, Any] = {
        "name": "odd",
        "task": {"kind": "segmentation"},
        "model": {"onnx": "net.onnx"},
        "classes": ["a", "b", "c"],
        "preprocess": {"size": [16, 16], "scale": 1 / 255},
        "data": {
            "calibration": {"format": "images", "images": "images"},
            "validation": {"format": "masks", "images": "images", "labels": "labels"},
        },
        "stages": [{"kind": "ptq", "keep_float": {"head": False}}],
        "target": {"engines": [{"backend": "ort"}]},
        "contract": {"accuracy": [{"metric": "mIoU", "min": 0.0}]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "net.onnx").write_bytes(network(RELU).SerializeToString())
    return tmp_path


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "avcompress", *arguments]
    done = subprocess.run(command, check=False, cwd=folder, text=True, capture_output=True, timeout=120)
    return done.returncode, done.stderr


def assert_refused(result: tuple[int, str], *parts: str) -> None:
    status, err = result
    assert status == 2, err
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err


def test_a_tensor_that_is_not_finite_is_named_with_the_image_and_the_operator(folder: Path) -> None:
    negative = [helper.make_node("Log", ["zero"], ["log"], name="log"), helper.make_node("Add", ["c0", "log"], ["sum"])]
    nodes = [helper.make_node("Mul", ["c0", "nothing"], ["zero"], name="mul"), *negative]
    nodes += [helper.make_node("Relu", ["sum"], ["kept"]), helper.make_node("Neg", ["kept"], ["x"])]
    nodes += [helper.make_node("Sub", ["sum", "x"], ["logits"])]
    (folder / "net.onnx").write_bytes(network(nodes, nothing=np.float32([0])).SerializeToString())

    result = call(folder, "run", "recipe.yaml", "--out", "out")

    assert_refused(result, "'log', image 0", "NaN or infinity from Log 'log'")


def test_a_network_that_does_not_run_is_named_by_the_users_own_path(folder: Path) -> None:
    model = network([helper.make_node("Odd", ["c0"], ["logits"], domain="my.own")])
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    (folder / "net.onnx").write_bytes(model.SerializeToString())

    assert_refused(call(folder, "run", "recipe.yaml", "--out", "out"), f"error: {folder / 'net.onnx'}: ", "my.own")


def test_names_that_look_like_markup_are_printed_as_they_are(folder: Path) -> None:
    status, err = call(folder, "analyze", "recipe.yaml", "--out", "out", "--budget", "1")

    assert (status, err) == (0, "")


def test_statistics_never_replace_a_file_of_another_kind_or_one_that_is_read(folder: Path) -> None:
    before = (folder / "net.onnx").read_bytes()
    assert_refused(call(folder, "calibrate", "recipe.yaml", "--out", "net.onnx"), "--out: expected a new file")
    assert (folder / "net.onnx").read_bytes() == before

    for part in ("1", "2"):
        assert call(folder, "calibrate", "recipe.yaml", "--out", f"{part}.stats", "--part", f"{part}/2") == (0, "")
    first = (folder / "1.stats").read_bytes()
    own = "expected a file of its own, got the input 1.stats"
    assert_refused(call(folder, "merge", "1.stats", "2.stats", "--out", "1.stats"), f"--out: {own}")
    assert_refused(call(folder, "merge", "1.stats", "--out", "m.stats", "--json", "1.stats"), f"--json: {own}")
    assert (folder / "1.stats").read_bytes() == first


def test_lint_refuses_weights_that_have_no_values(folder: Path) -> None:
    model = network(RELU)
    model.graph.initializer[0].ClearField("raw_data")
    (folder / "net.onnx").write_bytes(model.SerializeToString())

    assert_refused(call(folder, "lint", "net.onnx", "--target", "openvino"), "'weight': expected 3x3x1x1 values")


def test_the_error_of_layers_around_a_branch_is_measured(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["c0"], [name])], name, [], [value(name, TensorProto.FLOAT, IMAGE)]
        )
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        helper.make_node("ReduceMean", ["c0"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["condition"]),
        helper.make_node("If", ["condition"], ["chosen"], **branches),
        helper.make_node("Conv", ["chosen", "weight"], ["logits"]),
    ]
    (tmp_path / "net.onnx").write_bytes(network(nodes, zero=np.float32(0).reshape(())).SerializeToString())
    batches = [{"images": np.random.default_rng(1).random(IMAGE, np.float32)}]
    settings = Ptq(kind="ptq", keep_float=KeepFloat(head=False))

    done = quantize(Artifact(load_onnx(tmp_path / "net.onnx")), settings, batches)
    found = probe(done.model, done.reference, batches)

    assert len(found) == 2
    assert all(0 < power.error < power.signal / 100 for power in found.values())
    assert all(0 < power.depth < power.signal / 100 for power in found.values())
