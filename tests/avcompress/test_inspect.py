"""`avcompress inspect` as a user's terminal sees it: files, a child process, its exit code, lines and JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper, parser

from avcompress.inspecting import inspect_file
from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import place
from avcompress.recipe import KeepFloat
from avcompress.spec import QuantParams, RecipeError
from engines.onnx_graph import infer_shapes, name_nodes
from engines.qdq import insert_qdq

COMMAND = "import avcompress.cli.inspect; from avcompress.cli import main; main()"
NAMES = [f"/backbone/stage{i // 10}/blocks.{i}/mlp/a_long_name_of_a_module/Conv" for i in range(40)]
RECIPE = {
    "name": "small",
    "task": {"kind": "segmentation"},
    "classes": ["a", "b"],
    "model": {"onnx": "net.onnx"},
    "preprocess": {"size": [16, 16]},
    "data": {
        "calibration": {"format": "images", "images": "none"},
        "validation": {"format": "masks", "images": "none", "labels": "none"},
    },
    "stages": [{"kind": "ptq", "rules": "cpu", "keep_float": {"head": False, "layers": ["*blocks.1/*"]}}],
    "target": {"engines": [{"backend": "ort"}]},
    "contract": {"int8": {"min_macs": 0.5}},
}


@pytest.fixture
def folder(tmp_path):
    """A network of 40 long-named convolutions, and a recipe."""
    lines = [f"t{i + 1} = Conv <pads = [1,1,1,1]> (t{i}, w{i})" for i in range(len(NAMES))]
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,16,16] t0) => (float y) {'
        + "\n".join([*lines, f"y = Identity(t{len(NAMES)})"])
        + "}"
    )
    model.graph.output[0].type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension() for _ in range(4)])
    for i, name in enumerate(NAMES):
        shape = (3 if i == len(NAMES) - 1 else 8, 3 if i == 0 else 8, 3, 3)
        model.graph.node[i].name = name
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), f"w{i}"))
    onnx.save(infer_shapes(name_nodes(model)), tmp_path / "net.onnx")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def run(*arguments, columns=120, **environment):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "inspect", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": str(columns), **environment},
    )


def test_every_layer_has_a_line_that_fits_and_the_totals_say_why(folder):
    done = run(folder / "net.onnx", "--json", folder / "facts.json")
    lines = done.stdout.splitlines()

    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, lines)) <= 120
    shown = [line.split() for line in lines[1 : len(NAMES) + 1]]
    assert [line[0] for line in shown] == NAMES
    assert [line[-2:] for line in shown] == [["int8", "quantized"]] * 39 + [["float", "head"]]
    assert lines[1].split() == [NAMES[0], "Conv", "3x3", "3", "→", "8", "55.3", "k", "1.0", "int8", "quantized"]
    assert "head: a last layer before an output (keep_float.head)" in done.stdout
    assert lines[-1].startswith("39 of 40 weighted layers would be quantized, 99.0 % of ")
    facts = json.loads((folder / "facts.json").read_text())
    assert [layer["name"] for layer in facts["layers"]] == NAMES
    assert facts["layers"][0]["kernel"] == [3, 3]
    assert sum(layer["share"] for layer in facts["layers"]) == pytest.approx(1)
    assert facts["quantized_already"] is False
    assert facts["tensors"][0] == {"name": "t0", "readers": [NAMES[0]], "tie": 0}


def test_a_narrow_terminal_without_arrows_shows_the_ends_of_names(folder):
    done = run(folder / "net.onnx", columns=80, PYTHONIOENCODING="ascii")

    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 102  # the last line is not broken
    assert "3 -> 8" in done.stdout
    assert "..." in done.stdout


def test_a_recipe_says_what_stays_float_and_by_which_rules(folder):
    found = inspect_file(folder / "recipe.yaml", folder, None, None)
    other = inspect_file(folder / "recipe.yaml", folder, "tensorrt", None)

    assert [layer.name for layer in found.layers if layer.precision == "float"] == [NAMES[1]]
    assert found.layers[1].reason == "named by keep_float.layers: '*blocks.1/*'"
    assert other == found  # no layer of a kind that the two treat differently


def test_an_output_that_the_network_lacks_is_an_error_of_the_recipe(folder):
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "model": {"onnx": "net.onnx", "output": "boxes"}}))

    with pytest.raises(
        RecipeError, match=r"model\.output: expected one of the network's outputs, y, or a tensor inside, got 'boxes'"
    ):
        inspect_file(folder / "recipe.yaml", folder, None, None)


def test_a_quantized_file_is_read_as_it_is(folder):
    model = onnx.load(folder / "net.onnx")
    placement = place(graph_view(model), KeepFloat())
    sites = (*placement.activations, *placement.weights)
    qparams = {site.tensor: QuantParams((0.1,), (0,)) for site in sites}
    onnx.save(insert_qdq(model, [e for site in sites for e in site.edges], qparams), folder / "int8.onnx")
    found = inspect_file(folder / "int8.onnx", folder, None, None)

    assert found.found
    assert [layer.precision for layer in found.layers] == ["int8"] * 39 + ["float"]
    assert run(folder / "int8.onnx").stdout.splitlines()[-1].startswith("39 of 40 weighted layers are quantized")


@pytest.mark.parametrize(
    ("recipe", "quantized", "layers", "share", "ties"),
    [
        ("yolox_nano_coco", 74, 113, 0.927, 2),
        pytest.param("espnet_camvid", 82, 85, 0.976, 1, marks=pytest.mark.slow),
    ],
)
def test_the_shipped_recipes_quantize_nine_tenths_of_their_networks(recipe, quantized, layers, share, ties, data_root):
    path = Path(__file__).parents[2] / "recipes" / f"{recipe}.yaml"
    found = inspect_file(path, data_root, None, None)

    int8 = [layer for layer in found.layers if layer.precision == "int8"]
    assert (len(int8), len(found.layers)) == (quantized, layers)
    assert sum(layer.macs for layer in int8) / sum(layer.macs for layer in found.layers) == pytest.approx(
        share, abs=5e-4
    )
    assert {tensor.tie for tensor in found.tensors} == set(range(ties + 1))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.onnx", b"hello", "text.onnx: expected an ONNX file, got something else"),
        ("nothing.onnx", None, "nothing.onnx: expected an ONNX file, got nothing of that name"),
        ("net.pt", b"", "net.pt: expected an .onnx file or a .yaml recipe, got '.pt'"),
        ("recipe.yml", b"name: [", "recipe.yml"),
    ],
)
def test_a_file_that_is_neither_ends_with_2_and_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run(tmp_path / name)

    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_json_file_never_replaces_the_network(folder):
    before = (folder / "net.onnx").read_bytes()
    done = run(folder / "net.onnx", "--json", folder / "net.onnx")

    assert done.returncode == 2
    assert (folder / "net.onnx").read_bytes() == before
