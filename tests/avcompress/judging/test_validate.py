"""`avcompress validate` on detections that were made elsewhere: planted regressions, baselines, bad input."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

CLASSES = ("car", "person", "bicycle")
IMAGES = 24
Results = list[dict[str, Any]]
Cli = Callable[..., tuple[int, str, str]]


def labels() -> dict[str, Any]:
    """An object of every class in every image, at a distance; every third image is one of the night."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in range(IMAGES):
        for category in range(len(CLASSES)):
            left, top, width, height = 20 * category + rng.uniform(0, 4), rng.uniform(0, 30), 14.0, 20.0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "attributes": {"distance_m": float(rng.choice([10.0, 30.0, 60.0]))},
                }
            )
    images = [
        {"id": i, "file_name": f"{i:02d}.png", "tags": {"light": "night" if i % 3 == 0 else "day"}}
        for i in range(IMAGES)
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def detections(truth: dict[str, Any]) -> Results:
    """Every object, found with a score of 0.5-0.95 at the place of its label."""
    rng = np.random.default_rng(1)
    return [
        {key: each[key] for key in ("image_id", "category_id", "bbox")} | {"score": round(rng.uniform(0.5, 0.95), 3)}
        for each in truth["annotations"]
    ]


def recipe(contract: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "street",
        "task": {"kind": "detection", "decode": "yolov8", "deployed_threshold": 0.4},
        "model": {"onnx": "net.onnx"},
        "preprocess": {"size": [64, 64]},
        "data": {
            "calibration": {"format": "images", "images": "images"},
            "validation": {"format": "coco", "images": "images", "labels": "labels.json"},
        },
        "stages": [{"kind": "ptq"}],
        "target": {"engines": [{"backend": "ort"}]},
        "contract": contract,
        "validation": {"resamples": 200},
    }


CONTRACT = {
    "accuracy": [
        {"metric": "AP", "max_drop": 0.35},
        {"metric": "AP/*", "max_drop": 0.3},
        {"metric": "AP", "slice": "light:*", "max_drop": 0.4},
        {"metric": "AP", "slice": "distance:*", "max_drop": 0.4},
        {"metric": "recall", "max_drop": 0.36, "decide": "unless_proven_broken"},
    ]
}


@pytest.fixture
def street(tmp_path: Path) -> tuple[dict[str, Any], Results]:
    """Images, labels, a recipe and the reference's detections on disk; returns labels and detections."""
    rng = np.random.default_rng(2)
    (tmp_path / "images").mkdir()
    truth = labels()
    for image in truth["images"]:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "images" / image["file_name"])
    found = detections(truth)
    (tmp_path / "labels.json").write_text(json.dumps(truth))
    (tmp_path / "before.json").write_text(json.dumps(found))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(CONTRACT)))
    return truth, found


def judge(cli: Cli, results: Results, *more: str) -> tuple[int, str, str]:
    Path("after.json").write_text(json.dumps(results))
    return cli(
        "validate", "--recipe", "recipe.yaml", "--predictions", "after.json", "--reference", "before.json", "--quiet",
        *more,
    )  # fmt: skip


def failed(out: str) -> list[str]:
    return [line.removeprefix("failed: ").partition(": expected")[0] for line in out.splitlines() if "failed: " in line]


def test_the_reference_itself_keeps_the_contract(cli: Cli, street: Any) -> None:
    code, out, err = judge(cli, street[1], "--out", "out", "--json", "facts.json", "--junit", "junit.xml")

    assert (code, err) == (0, "")
    assert "street: contract met" in out
    report = json.loads(Path("out/report.json").read_text())
    assert json.loads(Path("facts.json").read_text()) == report
    assert report["accuracy"]["engines"]["predictions"]["AP"] == report["accuracy"]["reference"]["AP"] == 1.0
    assert {path.name for path in Path("out").iterdir()} == {"report.html", "report.json"}
    assert Path("junit.xml").read_text().count("<testcase") == len(report["contract"])


def test_a_lost_class_is_named(cli: Cli, street: Any) -> None:
    code, out, _ = judge(cli, [each for each in street[1] if CLASSES[each["category_id"] - 1] != "person"])

    assert code == 1
    assert failed(out) == ["AP/* drop @ predictions"]
    assert "worst: AP/person (1.0000)" in out
    assert "AP/car" not in out


@pytest.mark.parametrize(
    ("slice_name", "line"),
    [("light:night", "AP in light:* drop @ predictions"), ("distance:far", "AP in distance:* drop @ predictions")],
)
def test_a_lost_slice_is_named(cli: Cli, street: Any, slice_name: str, line: str) -> None:
    truth, found = street
    night = {image["id"] for image in truth["images"] if image["tags"]["light"] == "night"}
    if slice_name == "light:night":
        kept = [each for each in found if each["image_id"] not in night]
    else:
        kept = [
            each
            for each, label in zip(found, truth["annotations"], strict=True)
            if label["attributes"]["distance_m"] < 40
        ]
    code, out, _ = judge(cli, kept, "--junit", "junit.xml")

    assert code == 1
    assert line in failed(out)
    assert f"worst: AP in {slice_name} (1.0000)" in out
    assert f"worst: AP in {slice_name}" in Path("junit.xml").read_text()


def test_a_shift_of_the_threshold_is_caught_that_average_precision_does_not_show(cli: Cli, street: Any) -> None:
    shifted = [each | {"score": each["score"] * 0.45} for each in street[1]]
    code, out, _ = judge(cli, shifted, "--json", "facts.json")

    assert code == 1
    assert failed(out) == ["recall drop @ predictions"]
    report = json.loads(Path("facts.json").read_text())
    assert report["accuracy"]["engines"]["predictions"]["AP"] == report["accuracy"]["reference"]["AP"]
    restoring = report["operating_point"]["restoring"]["predictions"]
    assert restoring < 0.4
    assert f"scores have moved: from {restoring:.3f} on the precision is the reference's again" in out


def test_a_baseline_is_stored_and_holds_later_networks(cli: Cli, street: Any) -> None:
    stored = judge(cli, street[1], "--save-baseline", "base")
    assert stored[0] == 0, stored
    arguments = ("validate", "--recipe", "recipe.yaml", "--predictions", "after.json", "--baseline", "base", "--quiet")

    assert cli(*arguments)[0] == 0
    Path("after.json").write_text(json.dumps(street[1][::3]))
    code, out, _ = cli(*arguments)
    assert code == 1
    assert "AP drop @ predictions" in failed(out)


def test_a_baseline_of_other_data_is_refused(cli: Cli, street: Any) -> None:
    judge(cli, street[1], "--save-baseline", "base")
    changed = deepcopy(street[0])
    changed["annotations"][0]["bbox"][0] += 1
    Path("labels.json").write_text(json.dumps(changed))
    code, _, err = cli(
        "validate", "--recipe", "recipe.yaml", "--predictions", "after.json", "--baseline", "base", "--out", "out"
    )

    assert code == 2
    assert "expected a baseline of the data at hand, images (24 images, sha256 " in err
    assert "got one of other data, images (24 images, sha256 " in err
    assert len(err.splitlines()) == 1
    assert not Path("out").exists()


def _add(found: Results, **changes: Any) -> Results:
    return [*found, found[0] | changes]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: [found[0], *found], "got entry 0 again"),
        (lambda found: _add(found, bbox=[0, 0, float("nan"), 5]), "expected finite pixels and a score in 0-1"),
        (lambda found: _add(found, bbox=[200.0, 0, 5, 5]), "image"),
        (lambda found: _add(found, category_id=99), "got category_id 99"),
        (lambda found: _add(found, image_id=99), "got image_id 99"),
        (lambda _: "no list", "COCO results"),
    ],
)
def test_bad_detections_are_refused_in_one_line(
    cli: Cli, street: Any, spoil: Callable[[Results], Any], message: str
) -> None:
    code, _, err = judge(cli, spoil(street[1]), "--out", "out", "--json", "facts.json", "--junit", "junit.xml")

    assert code == 2, err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not any(Path(name).exists() for name in ("out", "facts.json", "junit.xml"))


def test_no_detection_at_all_is_judged_and_fails(cli: Cli, street: Any) -> None:
    code, out, _ = judge(cli, [])

    assert code == 1
    assert "AP drop @ predictions" in failed(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": [{"metric": "AP", "slice": "light:dusk", "max_drop": 0.1}]}, "light:day, light:night"),
        ({"accuracy": [{"metric": "AP/cat", "min": 0.1}]}, "did you mean 'AP/car'?"),
        ({"accuracy": [{"metric": "AP40_hard", "min": 0.1}]}, "expected a metric of this task"),
        ({"accuracy": [{"metric": "AP", "slice": "fog:3", "min": 0.1}]}, "expected a slice of this data"),
        ({"latency": [{"deadline_ms": 10, "engine": "ort"}]}, "got only deadlines on ort"),
    ],
)
def test_a_contract_that_cannot_be_judged_here_is_refused(
    cli: Cli, street: Any, change: dict[str, Any], message: str
) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe(change)))
    code, _, err = judge(cli, street[1], "--out", "out")

    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "WHAT: expected a run"),
        (("nothing",), "got nothing there"),
        (("labels.json",), "got a file that is not called .onnx"),
        (("images",), "got a folder without recipe.yaml or manifest.json"),
        (("--predictions", "before.json", "--reference", "before.json", "--baseline", "x"), "got both; give one"),
        (("--predictions", "before.json", "--out", "images"), "--out: expected a new folder"),
        (("--predictions", "before.json", "--json", "images"), "--json: expected a file, got a folder"),
        (("--predictions", "before.json", "--baseline", "nothing"), "expected a stored baseline"),
        (("--predictions", "missing.json", "--reference", "before.json"), "missing.json"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_in_one_line(
    cli: Cli, street: Any, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = cli("validate", "--recipe", "recipe.yaml", *arguments)

    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_labels_without_their_images_are_refused(cli: Cli, street: Any) -> None:
    Path("images/03.png").unlink()
    code, _, err = judge(cli, street[1])

    assert code == 2
    assert "03.png" in err
    assert len(err.splitlines()) == 1
