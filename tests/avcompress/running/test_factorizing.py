"""The stage `factorize` of a run: what it reports, and what it cannot do in one line."""

import json
import re
import shutil

import pytest

from avcompress.spec import MissingError
from engines.onnx_graph import infer_shapes, macs

SVD = {"kind": "factorize", "method": "svd", "rank": 8, "align": 1, "exclude": ["conv0", "conv2"], "backend": "ort"}
CONTRACT = {"accuracy": [{"metric": "mIoU", "min": 0.0}]}


@pytest.fixture
def clock(monkeypatch):
    """Time is multiply-accumulates: what is faster does not depend on the machine."""

    def by_macs(_):
        return lambda networks: tuple(sum(macs(infer_shapes(each)).values()) / 1e6 for each in networks)

    monkeypatch.setattr("avcompress.running.factorizing.engine_clock", by_macs)


def run(cli, tmp_path, job, **changes):
    (tmp_path / "recipe.yaml").write_text(json.dumps({**job, "contract": CONTRACT, **changes}))
    code, _, complaint = cli("run", "recipe.yaml", "--out", "out")
    return code, " ".join(complaint.split())


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("rank", [8, {"speedup": 1.2, "max_error": 0.9}])
def test_layers_are_taken_apart_quantized_and_reported(cli, tmp_path, job, rank):
    code, complaint = run(cli, tmp_path, job, stages=[{**SVD, "rank": rank}, {"kind": "ptq"}])

    assert code == 0, complaint
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (found,) = report["smaller"]["factorizations"]
    assert [layer["layer"] for layer in found["layers"]] == ["conv1"]
    assert found["after_ms"] < found["before_ms"]
    assert found["left"] == {"conv0": "the recipe leaves it out", "conv2": "the recipe leaves it out"}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"rank": 17},
            r"stages\[0\]\.rank, layer 'conv1', svd of 16x16x3x3: expected a rank of 1 to 16, got 17; give a smaller",
        ),
        (
            {"layers": ["backbone.*"]},
            r"stages\[0\]\.layers: expected patterns that match .* got 'backbone\.\*'; the nearest names are",
        ),
        ({"exclude": ["backbone.*"]}, r"stages\[0\]\.exclude: expected patterns that match .* got 'backbone\.\*'"),
        (
            {"backend": "openvino"},
            r"stages\[0\]\.backend: expected openvino among target\.engines, one that runs here, got ort; add it there",
        ),
        ({"rank": [8, 8]}, r"stages\[0\].*: expected two ranks of tucker2 only, got \[8, 8\] of svd; give one rank"),
    ],
)
def test_what_cannot_be_is_one_line(cli, tmp_path, job, stage, message):
    code, complaint = run(cli, tmp_path, job, stages=[{**SVD, **stage}])

    assert code == 2
    assert re.search(message, complaint), complaint
    assert "Traceback" not in complaint


def test_without_calibration_images_it_is_one_line(cli, tmp_path, job):
    shutil.rmtree(tmp_path / "train" / "images")
    (tmp_path / "train" / "images").mkdir()

    code, complaint = run(cli, tmp_path, job, stages=[SVD])

    assert code == 2
    assert re.search(r"expected .*images?.*, got none", complaint), complaint


def test_a_backend_that_is_not_installed_is_one_line_with_what_installs_it(cli, tmp_path, job, monkeypatch):
    def without(engine):
        if engine.backend == "openvino":
            raise MissingError(
                "openvino: expected the package openvino, got nothing of that name; pip install openvino"
            )

    monkeypatch.setattr("avcompress.running.bench.require", without)

    code, complaint = run(
        cli,
        tmp_path,
        job,
        stages=[{**SVD, "backend": "openvino"}],
        target={"engines": [{"backend": "ort"}, {"backend": "openvino"}]},
    )

    assert code == 3
    assert "pip install openvino" in complaint
