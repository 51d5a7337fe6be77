"""`avcompress analyze` as a user runs it: a recipe, what is printed, the files."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

RECIPE = {
    "name": "small",
    "task": {"kind": "segmentation"},
    "model": {"onnx": "net.onnx"},
    "preprocess": {"size": [32, 48], "fit": "stretch", "scale": 0.004},
    "data": {
        "calibration": {"format": "scenes", "count": 2, "size": [32, 48], "labels": "masks"},
        "validation": {"format": "scenes", "count": 1, "seed": 9, "size": [32, 48], "labels": "masks"},
    },
    "stages": [{"kind": "ptq"}],
    "target": {"engines": [{"backend": "ort"}]},
    "contract": {"int8": {"min_macs": 0.1}},
}


@pytest.fixture
def folder(tmp_path):
    """A recipe whose second convolution has one channel a thousand times the others."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,32,48] x) => (float[1,10,32,48] y) {
        a = Conv <pads = [1,1,1,1]> (x, aw) r = Relu(a)
        b = Conv <pads = [1,1,1,1]> (r, bw)
        y = Conv(b, yw) }"""
    )
    weights = {"aw": rng.normal(0, 1, (8, 3, 3, 3)), "bw": rng.normal(0, 1, (8, 8, 3, 3))}
    weights["aw"][3] *= 1000
    weights["bw"][:, 3] /= 1000
    weights["yw"] = rng.normal(0, 1, (10, 8, 1, 1))
    for name, weight in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32(weight), name))
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    return tmp_path


def analyze(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "avcompress", "analyze", "recipe.yaml", "--out", "out", *arguments],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_layer_that_loses_is_the_first_and_the_finished_stages_are_kept(folder):
    done = analyze(folder, "--json", "facts.json")
    again = analyze(folder, "--budget", "0")

    assert (done.returncode, done.stderr, again.returncode) == (0, "", 0)
    table = done.stdout.partition("the costliest of 2 layers; gain: mIoU")[2].splitlines()
    assert table[2].startswith("Conv_2 ")
    assert done.stdout.endswith(f"analysis: {folder / 'out' / 'analysis.html'}\n")
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["layers"][1]["activations_db"] < 10 < facts["layers"][1]["weights_db"]
    assert "[2/5] calibrate (2 images): kept from the last run" in again.stdout
    assert "[4/5] read the validation labels: kept from the last run" in again.stdout
    assert "[5/5] find where" in again.stdout
    assert json.loads((folder / "out" / "analysis.json").read_text())["splits"][0]["metric"] is None


def test_a_cast_after_the_quantization_is_left_out(folder):
    stages = [{"kind": "ptq"}, {"kind": "cast", "format": "fp16"}]
    plain = analyze(folder, "--budget", "0")
    (folder / "recipe.yaml").write_text(json.dumps({**RECIPE, "stages": stages}))

    done = analyze(folder, "--budget", "0")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.partition("quantized ")[2] == plain.stdout.partition("quantized ")[2]


@pytest.mark.parametrize("stages", [[], [{"kind": "cast", "format": "fp16"}]])
def test_a_recipe_that_quantizes_nothing_is_refused_in_one_line(folder, stages):
    (folder / "recipe.yaml").write_text(json.dumps({**RECIPE, "stages": stages}))

    done = analyze(folder)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_after_training_a_layer_is_held_against_its_trained_weights(folder):
    recipe = {**RECIPE, "stages": [{"kind": "ptq"}, {"kind": "qat", "steps": 3, "learning_rate": 8.0, "batch_size": 2}]}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))

    done = analyze(folder, "--json", "facts.json")

    assert done.returncode == 0, done.stderr
    layers = json.loads((folder / "facts.json").read_text())["layers"]
    before, after = (
        {
            i.name: numpy_helper.to_array(i)
            for i in onnx.load(folder / "out" / "state" / "1-qat" / name).graph.initializer
        }
        for name in ("reference.onnx", "trained.onnx")
    )
    moved = {name: float(np.abs(after[name] - weight).max() / np.abs(weight).max()) for name, weight in before.items()}
    # Training has moved weights by many steps of their grids; what rounding them costs is far less.
    assert min(moved.values()) > 0.05
    assert min(layer["weights_db"] for layer in layers) > 30
