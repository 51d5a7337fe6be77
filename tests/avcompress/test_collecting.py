"""avcompress.collecting and float_network: from a recipe to the statistics of its images, and the commands for it."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from PIL import Image

from avcompress.collecting import WHOLE, Part, collect, parse_part
from avcompress.float_network import float_network, with_output
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import Ptq, Recipe
from avcompress.spec import Artifact, DataError, RecipeError
from calibration.batches import Batches
from calibration.source import open_source
from calibration.statistics import merge_statistics
from calibration.statistics_file import save_statistics, to_bytes

FACTS = {
    "name": "small",
    "task": {"kind": "segmentation"},
    "classes": ["a", "b"],
    "model": {"onnx": "net.onnx"},
    "preprocess": {"size": [16, 16], "scale": 0.01},
    "data": {
        "calibration": {"format": "images", "images": "images"},
        "validation": {"format": "masks", "images": "none", "labels": "none"},
    },
    "stages": [{"kind": "ptq"}],
    # Of a calibrating machine nothing is asked but the network and the images.
    "target": {"engines": [{"backend": "trt_rtx"}]},
    "contract": {"int8": {"min_macs": 0.5}},
}


@pytest.fixture
def folder(tmp_path):
    """A small network, five images, and no labels."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,16,16] x) =>
        (float[1,4,16,16] y, float[1,4,16,16] c) {
        a = Conv <pads = [1,1,1,1]> (x, aw)
        r = Relu(a)
        b = Conv <pads = [1,1,1,1]> (r, bw)
        c = Add(b, r)
        y = Conv <pads = [1,1,1,1]> (c, yw) }"""
    )
    rng = np.random.default_rng(0)
    for name, channels in (("aw", 3), ("bw", 4), ("yw", 4)):
        model.graph.initializer.append(
            numpy_helper.from_array(np.float32(rng.normal(0, 0.2, (4, channels, 3, 3))), name)
        )
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "images").mkdir()
    for i in range(5):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def recipe(**changes):
    return Recipe.model_validate({**FACTS, **changes})


def collected(folder, part=WHOLE, **changes):
    return collect(recipe(**changes), folder, folder, part)


def test_the_parts_of_several_machines_merge_into_the_whole(folder):
    parts = {str(k): collected(folder, Part(k, 3)) for k in (3, 1, 2)}

    assert to_bytes(merge_statistics(parts)) == to_bytes(collected(folder))


def test_the_statistics_serve_the_ptq_stage_of_the_same_recipe(folder):
    found = collected(folder)
    network = Artifact(float_network(recipe(), folder, folder))
    images = open_source(recipe().data.calibration, folder, None)
    batches = Batches(images, recipe().preprocess, "x")

    for settings in (Ptq(kind="ptq"), Ptq(kind="ptq", ranges="entropy", keep_float={"head": False})):
        one = quantize(network, settings, (), found).model.SerializeToString()
        assert one == quantize(network, settings, batches).model.SerializeToString()


def test_the_stages_before_ptq_are_run_on_all_images_whatever_the_part(folder, monkeypatch):
    def halve(stage, artifact, batches):
        assert stage.kind == "smooth"
        assert len(list(batches)) == 5
        weight = next(tensor for tensor in artifact.model.graph.initializer if tensor.name == "aw")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / 2, "aw"))
        return artifact

    monkeypatch.setattr("avcompress.collecting.apply", halve)
    stages = [{"kind": "smooth"}, {"kind": "ptq"}]

    one, other = (collected(folder, Part(k, 2), stages=stages) for k in (1, 2))

    assert one.network == other.network != collected(folder).network


def test_progress_is_that_of_the_part(folder):
    seen = []

    def track(items, total=None):
        for item in items:
            seen.append((item.name, total))
            yield item

    collect(recipe(), folder, folder, Part(2, 2), track)

    assert seen == [("1.png", 2), ("3.png", 2)]


def test_a_recipe_without_ptq_is_refused(folder):
    with pytest.raises(RecipeError, match="stages: expected `ptq`, got none"):
        collected(folder, stages=[{"kind": "dynamic"}])


def test_a_recipe_that_trains_is_refused(folder):
    with pytest.raises(RecipeError, match="stages: expected a network that is trained already, got `train`"):
        collected(folder, stages=[{"kind": "train", "steps": 1}, {"kind": "ptq"}])


def test_an_empty_part_is_refused(folder):
    with pytest.raises(DataError, match="--part 6/6: expected at most as many parts as images, 5"):
        collected(folder, Part(6, 6))


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/", "-1/2", "1/2/3", "1.0/2"])
def test_a_part_is_written_k_of_n(text):
    with pytest.raises(RecipeError, match="--part: expected K/N with K from 1 to N, got"):
        parse_part(text)


def test_a_part_is_read():
    assert parse_part("2/4") == Part(2, 4)


def test_an_output_is_kept_by_its_name(folder):
    model = onnx.load(folder / "net.onnx")

    assert with_output(model, None) is model
    assert [node.op_type for node in with_output(model, "c").graph.node] == ["Conv", "Relu", "Conv", "Add"]
    with pytest.raises(
        RecipeError, match=r"model\.output: expected one of the network's outputs, y, c, or a tensor inside, got 'z'"
    ):
        with_output(model, "z")


# --- the commands


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "avcompress", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_files_of_parts_merge_into_that_of_the_whole_set(folder):
    (folder / "recipe.yaml").write_text(json.dumps(FACTS))
    calibrate = ("calibrate", folder / "recipe.yaml", "--out")
    parts = [folder / f"{k}.stats" for k in (1, 2)]

    first = run(*calibrate, parts[0], "--part", "1/2", "--json", folder / "facts.json")
    second, whole = run(*calibrate, parts[1], "--part", "2/2", "--quiet"), run(*calibrate, folder / "whole.stats")
    merged = run("merge", *parts[::-1], "--out", folder / "all.stats")

    assert [done.returncode for done in (first, second, whole, merged)] == [0] * 4
    assert (folder / "all.stats").read_bytes() == (folder / "whole.stats").read_bytes()
    assert "calibrate (part 1 of 2)" in first.stdout
    assert second.stdout == f"statistics of 4 tensors over 2 images: {parts[1]}\n"
    facts = json.loads((folder / "facts.json").read_text())
    assert (facts["images"], facts["size_bytes"]) == (3, parts[0].stat().st_size)


def test_a_merge_refuses_what_would_count_twice_or_write_over_a_part(folder):
    save_statistics(collected(folder, Part(1, 2)), folder / "a.stats")
    save_statistics(collected(folder, Part(2, 2)), folder / "b.stats")
    before = (folder / "a.stats").read_bytes()
    cases = {
        "a.stats: expected each file once": ("a.stats", "a.stats", "--out", "x"),
        "--out: expected a file of its own, got the input a.stats": ("a.stats", "b.stats", "--out", "a.stats"),
        "--json: expected a file of its own": ("a.stats", "b.stats", "--out", "x", "--json", "b.stats"),
        "net.onnx: expected statistics of `avcompress calibrate`": ("a.stats", "net.onnx", "--out", "x"),
    }

    for message, arguments in cases.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            done = run("merge", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(f"error: {message}")
    assert (folder / "a.stats").read_bytes() == before
    assert not (folder / "x").exists()


def test_images_of_a_drive_are_collected_with_where_they_are_from_and_what_they_look_like(folder, write_drive):
    write_drive(folder / "drive", [("/front", i, np.full((16, 16, 3), 30 * i, np.uint8)) for i in range(8)], "raw")
    source = {"format": "rosbag", "bag": "drive", "count": 3}

    found = collected(folder, data={**FACTS["data"], "calibration": source})

    (drive,) = found.drives
    assert (drive.bag, drive.topic) == ("drive", "/front")
    assert [image.name for image in found.images] == [f"front/{at}" for at in drive.recorded_ns]
    assert [at - 5_000_000 for at in drive.recorded_ns] == list(drive.stamps_ns)
    brightness = [30 * (at / 10**9 - 1_700_000_000) for at in drive.recorded_ns]
    assert found.figures["brightness"].tolist() == pytest.approx(brightness, abs=0.1)
    parts = {str(k): collected(folder, Part(k, 2), data={**FACTS["data"], "calibration": source}) for k in (1, 2)}
    assert to_bytes(merge_statistics(parts)) == to_bytes(found)
