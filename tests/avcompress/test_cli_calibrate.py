"""`avcompress calibrate` and `avcompress merge` as a user's CI sees them: files, a child process, exit codes, lines."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper, parser
from PIL import Image

RECIPE = {
    "name": "small",
    "task": {"kind": "segmentation"},
    "classes": ["a", "b"],
    "model": {"onnx": "net.onnx"},
    "preprocess": {"size": [16, 16]},
    "data": {
        "calibration": {"format": "images", "images": "images"},
        "validation": {"format": "masks", "images": "none", "labels": "none"},
    },
    "stages": [{"kind": "ptq"}],
    "target": {"engines": [{"backend": "ort"}]},
    "contract": {"int8": {"min_macs": 0.5}},
}


@pytest.fixture
def folder(tmp_path):
    """A network of one layer and a recipe, with four images."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,16,16] x) => (float[1,4,16,16] y) {
        y = Conv <pads = [1,1,1,1]> (x, w) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.full((16, 16, 3), 50 * i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def run(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "avcompress", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_parts_and_their_merge_equal_one_run(folder):
    for k in (1, 2):
        done = run(folder, "calibrate", "recipe.yaml", "--part", f"{k}/2", "--out", f"{k}.stats")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"calibrate (part {k} of 2)" in done.stdout
        assert f"statistics of 1 tensors over 2 images: {k}.stats" in done.stdout
    merged = run(folder, "merge", "2.stats", "1.stats", "--out", "deep/all.stats", "--json", "facts.json")
    whole = run(folder, "calibrate", "recipe.yaml", "--out", "whole.stats", "--quiet")

    assert (merged.returncode, whole.returncode) == (0, 0)
    assert (folder / "deep" / "all.stats").read_bytes() == (folder / "whole.stats").read_bytes()
    facts = json.loads((folder / "facts.json").read_text())
    assert (facts["images"], facts["tensors"], facts["file"]) == (4, 1, "deep/all.stats")
    assert facts["size_bytes"] == (folder / "whole.stats").stat().st_size

    again = run(folder, "merge", "1.stats", "whole.stats", "--out", "no.stats")
    assert again.returncode == 2
    assert again.stderr.startswith("error: whole.stats: expected images that no other part has, got 2 that are counted")
    assert again.stderr.count("\n") == 1
    assert not (folder / "no.stats").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("calibrate", "recipe.yaml", "--out", "x", "--part", "3/2"),
            "--part: expected K/N with K from 1 to N, got '3/2'",
        ),
        (("calibrate", "recipe.yaml", "--out", "images"), "--out: expected a file, got a folder at images"),
        (("calibrate", "recipe.yaml", "--out", "recipe.yaml"), "--out: expected a file of its own, got the input"),
        (
            ("calibrate", "recipe.yaml", "--out", "x", "--json", "x"),
            "--json: expected a file of its own, got that of --out",
        ),
        (("calibrate", "recipe.yaml"), "--out: expected a file for the statistics, or --ranges-out, got none"),
        (("calibrate", "recipe.yaml", "--ranges-out", "x.json", "--part", "1/2"), "--ranges-out: expected it over all"),
        (("calibrate", "recipe.yaml", "--ranges-out", "none/x.json"), "--ranges-out: expected a file in a folder"),
        (("calibrate", "recipe.yaml", "--ranges-out", "x", "--out", "x"), "--ranges-out: expected a file of its own"),
        (("calibrate", "recipe.yaml", "--ranges-out", "net.onnx"), "--ranges-out: expected a new file, or JSON"),
        (("merge", "net.onnx", "--out", "x"), "net.onnx: expected statistics of `avcompress calibrate`, got something"),
        (("merge", "none", "--out", "x"), "none: expected a readable file of statistics, got No such file"),
        (("merge", "a", "a", "--out", "x"), "a: expected each file once, got it 2 times"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, arguments, message):
    done = run(folder, *arguments)

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (folder / "x").exists()


def test_ranges_of_every_activation_make_a_dla_s_layers_int8(folder):
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,16,16] x) => (float[1,2,16,16] y) {
        a = Conv <pads = [1,1,1,1]> (x, w)
        b = Sigmoid(a)
        c = Mul(a, b)
        d = Conv <pads = [1,1,1,1]> (c, v)
        e = Relu(d)
        y = Conv <pads = [1,1,1,1]> (e, u) }"""
    )
    random = np.random.default_rng(0)
    for name, shape in (("w", (16, 3, 3, 3)), ("v", (16, 16, 3, 3)), ("u", (2, 16, 3, 3))):
        model.graph.initializer.append(numpy_helper.from_array(random.normal(0, 0.2, shape).astype("f"), name))
    onnx.save(model, folder / "net.onnx")
    (folder / "masks").mkdir()
    for i in range(4):
        Image.fromarray(np.full((16, 16), i % 2, np.uint8)).save(folder / "masks" / f"{i}.png")
    keep = {"head": False, "small_channels": 0}
    facts = RECIPE | {"stages": [{"kind": "ptq", "ranges": "minmax", "keep_float": keep}]}
    facts["data"] = RECIPE["data"] | {"validation": {"format": "masks", "images": "images", "labels": "masks"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(facts))

    def layers(out, *more):
        target = ("--target", "orin-agx@jetpack-6.0", "--dla", "0", "--dla-fallback", "list")
        built = run(folder, "build", "out/model.onnx", *target, "--export-only", "--out", out, *more)
        assert (built.returncode, built.stderr) == (0, "")
        found = json.loads((folder / out / "precisions.json").read_text())["layers"]
        return [facts["precision"] for name, facts in found.items() if "Conv" in name]

    done = run(folder, "run", "recipe.yaml", "--out", "out")
    assert (done.returncode, done.stderr) == (0, "")
    ranged = run(folder, "calibrate", "recipe.yaml", "--ranges-out", "ranges.json", "--json", "facts.json")

    assert (ranged.returncode, ranged.stderr) == (0, "")
    assert "ranges of 7 tensors: ranges.json" in ranged.stdout
    assert json.loads((folder / "facts.json").read_text())["file"] is None
    ranges = json.loads((folder / "ranges.json").read_text())
    assert sorted(ranges) == ["a", "b", "c", "d", "e", "x", "y"]
    assert all(low == -high for low, high in ranges.values())
    assert layers("without") == ["fp16", "int8", "fp16"]
    assert layers("with", "--ranges", "ranges.json") == ["int8", "int8", "int8"]


def test_help_shows_an_example(folder):
    for command in ("calibrate", "merge"):
        done = run(folder, command, "--help")
        assert done.returncode == 0
        assert f"Example: avcompress {command}" in " ".join(done.stdout.split())
