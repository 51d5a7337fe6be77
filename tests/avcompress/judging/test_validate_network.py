"""`avcompress validate` and `compare` on a tiny network: as a run, a bundle, an engine's folder and an ONNX file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test leaves its run for the others."""
    return tmp_path_factory.mktemp("shelf") / "run"


@pytest.fixture
def finished(cli: Cli, job: dict[str, Any], tmp_path: Path, shelf: Path) -> dict[str, Any]:
    """A run of the job in `out`, its report in `out/report.json`; returns the job."""
    job["contract"]["drift"] = {"min_sqnr_db": 10}
    job["validation"] = {"resamples": 50}
    job["measure"] = {"warmup": 1, "runs": 100}
    job["contract"]["latency"] = [{"deadline_ms": 1000, "engine": "ort"}]
    if shelf.exists():
        shutil.copytree(shelf, tmp_path, dirs_exist_ok=True)
        return job
    Path("recipe.yaml").write_text(yaml.safe_dump(job))
    code, _, err = cli("run", "recipe.yaml", "--out", "out", "--quiet", "--junit", "run.xml")
    assert (code, err) == (0, "")
    shutil.copytree(tmp_path, shelf)
    return job


def figures(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())["accuracy"]["engines"]["ort"]


def spoil(source: str, target: str, name: str) -> None:
    """A quantized network with one scale of an activation, that `name` reads, ten times too small."""
    model = onnx.load(source)
    producers = {output: node for node in model.graph.node for output in node.output}
    layer = next(node for node in model.graph.node if node.name == name)
    scale = producers[layer.input[0]].input[1]
    tensor = next(each for each in model.graph.initializer if each.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(np.float32(0.1) * numpy_helper.to_array(tensor), scale))
    onnx.save(model, target)


def test_a_run_its_bundle_its_engine_and_its_network_are_judged_alike_or_refused(
    cli: Cli, finished: dict[str, Any]
) -> None:
    assert cli("bundle", "create", "out", "--engine", "ort", "--out", "tiny.bundle")[0] == 0
    assert Path("run.xml").read_text().count("<testcase ") == len(
        json.loads(Path("out/report.json").read_text())["contract"]
    )
    common = ("--data-root", ".", "--quiet")
    asked = {
        "run": ("out",),
        "bundle": ("tiny.bundle", "--recipe", "recipe.yaml", "--allow-unsigned"),
        "engine": ("out/engines/ort", "--recipe", "recipe.yaml"),
        "network": ("out/model.onnx", "--recipe", "recipe.yaml", "--save-baseline", "base"),
    }
    for kind, arguments in asked.items():
        code, out, err = cli("validate", *arguments, *common, "--out", f"verdict/{kind}")
        assert (code, err) == (0, ""), (kind, out, err)
        assert figures(f"verdict/{kind}/report.json") == figures("out/report.json"), kind
        lines = [line["name"] for line in json.loads(Path(f"verdict/{kind}/report.json").read_text())["contract"]]
        assert ("SQNR of every layer" in lines) == (kind != "engine")
        assert "p99 @ ort" in lines
    code, _, err = cli("validate", "out", *common, "--baseline", "base")
    assert (code, err) == (0, "")

    code, _, err = cli("validate", "tiny.bundle", "--recipe", "recipe.yaml")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "expected a public key to verify by" in err
    with Path("out/engines/ort/model.onnx").open("ab") as file:
        file.write(b"x")
    code, _, err = cli("validate", "out", "--data-root", ".")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "out/engines/ort/model.onnx: expected" in err


def test_the_layer_whose_scale_is_spoiled_is_named(cli: Cli, finished: dict[str, Any]) -> None:
    spoil("out/model.onnx", "spoiled.onnx", "conv1")
    arguments = ("validate", "spoiled.onnx", "--recipe", "recipe.yaml", "--quiet", "--junit", "junit.xml")
    code, out, _ = cli(*arguments)

    assert code == 1
    assert "failed: SQNR of every layer" in out
    assert "the first is conv1," in out
    assert "the first is conv1," in Path("junit.xml").read_text()


def test_two_networks_are_compared_and_a_proven_loss_fails_where_asked(cli: Cli, finished: dict[str, Any]) -> None:
    spoil("out/model.onnx", "spoiled.onnx", "conv1")
    arguments = ("compare", "out/model.onnx", "spoiled.onnx", "--recipe", "recipe.yaml", "--quiet")
    code, out, err = cli(*arguments, "--json", "facts.json", "--out", "compared")
    assert (code, err) == (0, "")
    assert "proven worse" in out
    assert "mIoU drop @ B" in out
    assert "the first layer that differs is conv1 (" in out
    facts = json.loads(Path("facts.json").read_text())
    assert facts["a"]["network_sha256"] != facts["b"]["network_sha256"]
    assert facts["layers"] == []
    apart = {layer["layer"]: layer["sqnr_db"] for layer in facts["report"]["drift"]["layers"]}
    assert apart["conv0"] is None  # equal
    assert apart["conv1"] < 15
    assert {path.name for path in Path("compared").iterdir()} == {"report.html", "report.json"}

    assert cli(*arguments, "--fail-on-regression", "--junit", "junit.xml")[0] == 1
    assert "mIoU drop @ B" in Path("junit.xml").read_text()


def test_bundles_are_compared_without_data_by_what_they_say(cli: Cli, finished: dict[str, Any]) -> None:
    finished["contract"]["accuracy"][0]["min"] = 0.5
    finished["stages"][0]["keep_float"] = {"head": True}
    Path("other.yaml").write_text(yaml.safe_dump(finished))
    assert cli("run", "other.yaml", "--out", "other", "--quiet")[0] == 0
    for name in ("out", "other"):
        assert cli("bundle", "create", name, "--engine", "ort", "--out", f"{name}.bundle")[0] == 0
    code, out, err = cli("compare", "out.bundle", "other.bundle", "--allow-unsigned", "--json", "facts.json")

    assert (code, err) == (0, "")
    facts = json.loads(Path("facts.json").read_text())
    assert {"key": "contract.accuracy[0].min", "a": 0.7, "b": 0.5} in facts["settings"]
    assert facts["layers"] == [{"name": "conv2", "a": "int8", "b": "float"}]
    assert {file["name"] for file in facts["files"]} >= {"model.onnx"}
    assert facts["report"] is None
    assert "nothing is measured: no data are given" in out


def test_a_bench_leaves_a_case_for_its_deadline(cli: Cli, finished: dict[str, Any]) -> None:
    arguments = ("bench", "out/engines/ort", "--runs", "100", "--warmup", "0", "--junit", "bench.xml")
    assert cli(*arguments, "--deadline-ms", "0.000001")[0] == 1
    assert '<failure type="contract"' in Path("bench.xml").read_text()
    assert 'name="p99 @ ort"' in Path("bench.xml").read_text()
    code, _, err = cli(*arguments)
    assert code == 2
    assert "--junit: expected --deadline-ms with it" in err


REFUSED = {
    ("validate", "out/model.onnx"): "--recipe: expected a recipe that names the labelled images",
    ("validate", "out"): "data.validation.images: expected a folder, got nothing",
    ("validate", "out", "--data-root", ".", "--engine", "openvino"): "expected one that out has (ort)",
    ("validate", "out", "--data-root", ".", "--out", "out"): "--out: expected a new folder",
    ("validate", "out", "--data-root", ".", "--predictions", "run.xml"): "expected a recipe with COCO labels",
    ("compare", "out", "nothing"): "got nothing there",
    ("compare", "out", "out", "--engine", "trt", "--data-root", "."): "expected one that out has (ort)",
}


def test_what_cannot_be_judged_is_refused_in_one_line(cli: Cli, finished: dict[str, Any]) -> None:
    for arguments, message in REFUSED.items():
        code, _, err = cli(*arguments)
        assert code == 2, (arguments, err)
        assert message in err
        assert len(err.splitlines()) == 1
