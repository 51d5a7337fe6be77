import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "benchmarks")]

import detection_cost  # noqa: E402
from detection_cost import difference, faster_coco_eval, ours  # noqa: E402

pytest.importorskip("faster_coco_eval")


def test_both_sides_are_measured_and_agree(monkeypatch, capsys):
    measured = {
        "ours": ours(60, 0),
        "faster-coco-eval": faster_coco_eval(60, 0),
        "bootstrap": {"seconds": 1.0, "megabytes": 1.0},
    }
    assert difference(measured["ours"]["figures"], measured["faster-coco-eval"]["figures"]) < 1e-9
    monkeypatch.setattr(detection_cost, "in_child", lambda name, *_: measured[name])
    monkeypatch.setattr(sys, "argv", ["-", "--images", "60"])
    measured["ours"]["seconds"] = 2 * measured["faster-coco-eval"]["seconds"]
    assert detection_cost.main() == 1
    assert "2.000 times faster-coco-eval's time" in capsys.readouterr().out


def test_figures_that_only_one_side_has_are_no_agreement():
    assert difference({"AP": float("nan")}, {"AP": 0.5}) == float("inf")
