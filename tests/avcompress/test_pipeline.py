"""The main job in this process: the demo's recipes in small, and the real ones with the figures they must reach."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from avcompress.pipeline import Outcome, execute
from avcompress.recipe import Recipe
from avcompress.recipe_load import load_recipe
from avcompress.running.bench import Job
from avcompress.watch import SilentWatch
from engines.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "avcompress" / "demo"


def run(path: Path, recipe: Recipe, data_root: Path, out: Path) -> Outcome:
    return execute(Job(recipe, path, data_root, out), SilentWatch())


def small(path: Path) -> Recipe:
    """A demo recipe that trains for three steps and looks at few scenes; its floors are out of reach."""
    facts: dict[str, Any] = yaml.safe_load(path.read_text())
    for source in facts["data"].values():
        source["count"] = 8
    facts["stages"][0] |= {"steps": 3, "batch_size": 2}
    facts["measure"] = {"warmup": 1, "runs": 100}
    return Recipe.model_validate(facts)


@pytest.mark.parametrize("name", ["detector", "segmenter"])
def test_a_demo_recipe_runs_from_training_to_the_report(tmp_path: Path, name: str) -> None:
    path = DEMO / f"{name}.yaml"
    outcome = run(path, small(path), path.parent, tmp_path / "out")

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    steps = [stage["name"] for stage in report["stages"]]
    assert steps[:5] == [
        "read the validation labels",
        "train, 3 steps",
        "keep the float network",
        "calibrate (8 images)",
        "quantize (PTQ, int8, mse ranges)",
    ]
    assert report["stages"][1]["log"][-1].startswith("train: 3 steps")
    assert report["passed"] == outcome.verdict.passed
    manifest = read_manifest(tmp_path / "out" / "engines" / "openvino")
    assert manifest.preprocess == small(path).preprocess
    assert report["latency"]["openvino"]["float_total"]["p50_ms"] > 0


def test_a_drive_calibrates_as_its_images_do(job: dict[str, Any], tmp_path: Path, write_drive: Any) -> None:
    files = sorted((tmp_path / "train" / "images").glob("*.png"))
    write_drive(tmp_path / "bag", [("/front/image_raw", i, file.read_bytes()) for i, file in enumerate(files)])
    sources = {"drive": {"format": "rosbag", "bag": "bag", "rate_hz": None}, "images": job["data"]["calibration"]}
    for name, source in sources.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**job, "data": {**job["data"], "calibration": source}}))
        run(path, load_recipe(path), tmp_path, tmp_path / name)

    quantized = [(tmp_path / name / "model.onnx").read_bytes() for name in sources]
    assert quantized[0] == quantized[1]
    notes = json.loads((tmp_path / "drive" / "report.json").read_text())["notes"]
    assert any(note.startswith("calibration: bag, /front/image_raw: 6 frames") for note in notes)


@pytest.mark.rtx
def test_tensorrt_keeps_the_plan_of_the_demo_detector(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = DEMO / "detector.yaml"
    outcome = run(path, small(path), path.parent, tmp_path / "out")

    (check,) = [check for check in outcome.verdict.checks if check.name == "layers as planned @ trt_rtx"]
    assert (check.measured, check.passed) == (0, True)


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.parametrize(
    ("name", "metric", "reference", "tolerance", "floor", "drop"),
    [
        ("yolox_nano_coco", "AP", 0.2851, 0.001, 0.2823, 0.0101),
        ("yolox_nano_all_int8", "AP", 0.2851, 0.001, 0.275, 0.0101),
        ("espnet_camvid", "mIoU", 0.7005, 0.003, 0.6985, 0.002),
    ],
)
def test_a_real_recipe_reaches_its_figures(
    tmp_path: Path,
    data_root: Path,
    name: str,
    metric: str,
    reference: float,
    tolerance: float,
    floor: float,
    drop: float,
) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = ROOT / "recipes" / f"{name}.yaml"
    outcome = run(path, load_recipe(path), data_root, tmp_path / "out")
    accuracy = outcome.report.accuracy

    assert accuracy.reference[metric] == pytest.approx(reference, abs=tolerance)
    assert accuracy.engines["ort"][metric] >= floor
    for engine in ("ort", "openvino"):
        assert accuracy.reference[metric] - accuracy.engines[engine][metric] <= drop
    timed = [check for check in outcome.verdict.checks if check.unit == "ms"]
    assert [check.name for check in outcome.verdict.failures if check not in timed] == []
    told = {layer.name: layer.engines["trt_rtx"] for layer in outcome.report.layers}
    assert {"int8", "fp32"} == set(told.values())
