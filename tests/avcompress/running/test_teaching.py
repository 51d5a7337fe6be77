"""The `distill` stage and the teacher of `qat` in a run: through the command line, resumed, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

from avcompress.export import to_onnx
from avcompress.models import segmenter
from avcompress.recipe import Recipe
from avcompress.running.bench import Job, prepare
from avcompress.running.compress import compress
from avcompress.spec import ModelError, RecipeError, Track
from avcompress.watch import SilentWatch

CLASSES, SIZE = 10, (64, 96)
SMALL = {"factory": "avcompress.models:segmenter", "args": {"num_classes": CLASSES, "width": 8}}
BIG = {"factory": "avcompress.models:segmenter", "args": {"num_classes": CLASSES, "width": 16}}
DISTILL = {
    "kind": "distill",
    "steps": 3,
    "batch_size": 2,
    "learning_rate": 0.01,
    "losses": [{"kind": "soft"}],
    "teacher": BIG,
}
QAT = {"kind": "qat", "steps": 2, "batch_size": 2}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Path:
    """A small segmenter and one of double width as ONNX files."""
    folder = tmp_path_factory.mktemp("networks")
    onnx.save(to_onnx(segmenter(CLASSES, 8), SIZE), folder / "small.onnx")
    onnx.save(to_onnx(segmenter(CLASSES, 16), SIZE), folder / "big.onnx")
    return folder


@pytest.fixture
def plain(tmp_path, networks) -> dict[str, Any]:
    """A small segmenter, rendered scenes to calibrate and judge, four pictures without labels to learn from."""
    for name in ("small.onnx", "big.onnx"):
        shutil.copy(networks / name, tmp_path)
    (tmp_path / "plain").mkdir()
    for i in range(4):
        picture = np.random.default_rng(i).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "plain" / f"{i}.png"), cv2.resize(picture, SIZE[::-1]))
    scenes = {"format": "scenes", "size": SIZE, "labels": "masks", "count": 2}
    return {
        "name": "small",
        "task": {"kind": "segmentation"},
        "model": SMALL,
        "preprocess": {"size": SIZE, "mean": [114.0] * 3, "std": [58.0] * 3},
        "data": {
            "train": {"format": "images", "images": "plain"},
            "calibration": {**scenes, "seed": 1},
            "validation": {**scenes, "seed": 2},
        },
        "stages": [DISTILL, {"kind": "ptq"}, QAT],
        "target": {"engines": [{"backend": "ort"}]},
        "contract": {"accuracy": [{"metric": "mIoU", "min": 0.0}]},
    }


def write(folder: Path, facts: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(facts))
    return path


class Following(SilentWatch):
    """Counts the steps of training, and kills its own process in front of one."""

    def __init__(self, kill: int | None = None) -> None:
        self.kill = kill
        self.seen: list[int] = []

    @contextmanager
    def step(self, *_: Any, **__: Any) -> Iterator[Track]:
        yield self._track

    def _track(self, items: Iterable[Any], *_: Any) -> Iterator[Any]:
        for item in items:
            if isinstance(items, range):
                if len(self.seen) == self.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.seen.append(item)
            yield item


def run(folder: Path, facts: dict[str, Any], out: str = "out", resume: bool = False, watch: Any = None) -> Path:
    """The steps up to the compressed network, with the folder that they are kept in."""
    job = Job(Recipe.model_validate(facts), write(folder, facts), folder, folder / out, resume)
    bench = prepare(job, watch or SilentWatch())
    job.out.mkdir(exist_ok=True)
    compress(bench)
    return job.out


def loss(out: Path) -> float:
    line = json.loads((out / "state" / "0-distill" / "artifact.json").read_text())["log"][-1]
    return float(line.split("loss ")[1].split(",")[0])


@pytest.mark.parametrize(
    ("model", "teacher"),
    [(SMALL, BIG), ({"onnx": "small.onnx"}, {"onnx": "big.onnx"})],
    ids=["torch", "onnx"],
)
def test_a_network_is_distilled_quantized_and_trained_on_by_the_command_line(cli, tmp_path, plain, model, teacher):
    stages = [{**DISTILL, "teacher": teacher}, {"kind": "ptq"}, {**QAT, "teacher": teacher}]
    drawn = {**plain["data"]["calibration"], "count": 1}
    plain["data"]["train"] = [plain["data"]["train"], drawn]
    recipe = write(tmp_path, {**plain, "model": model, "stages": stages})

    code, _, complaint = cli("run", str(recipe), "--out", "out")

    assert code == 0, complaint
    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())
    told = {stage["name"]: stage["log"] for stage in report["stages"] if stage["log"]}
    assert told["distill, 3 steps"][-1].startswith("distill: 3 steps of 2 from 5 samples, loss ")
    assert (report["sources"]["train"]["format"], report["sources"]["train"]["images"]) == ("images, scenes", 5)
    assert told["train quantized (lsq, 2 steps)"][0].startswith("qat: lsq, 2 steps of 2 from 5 images")
    first, kept = (onnx.load(path).graph.node for path in (tmp_path / "small.onnx", out / "state/network/model.onnx"))
    assert [node.op_type for node in kept] == [node.op_type for node in first]
    assert {n.op_type for n in onnx.load(out / "model.onnx").graph.node} >= {"QuantizeLinear", "DequantizeLinear"}


def kill_run(folder: Path, facts: dict[str, Any], before: int) -> None:
    """Run in a process of its own, until kill -9 in front of a step."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_teaching as t; "
        "t.torch.set_num_threads(1); "
        f"t.run(t.Path({str(folder)!r}), t.json.load(sys.stdin), watch=t.Following({before}))"
    )
    done = subprocess.run([sys.executable, "-c", script], input=json.dumps(facts), text=True, check=False, timeout=600)
    assert done.returncode == -signal.SIGKILL


def test_a_distill_step_that_is_killed_goes_on_inside_and_ends_the_same(tmp_path, plain):
    facts = {
        **plain,
        "stages": [{**DISTILL, "keep_every": 1, "losses": [{"kind": "mgd", "taps": ["mix.1"]}, {"kind": "soft"}]}],
    }
    whole = run(tmp_path, facts, "whole")
    kill_run(tmp_path, facts, 2)
    assert not (tmp_path / "out" / "state" / "0-distill").exists()
    torch.rand(7)  # another process has drawn other numbers: the adapter and the generator are the same

    again = Following()
    out = run(tmp_path, facts, resume=True, watch=again)

    assert again.seen == [2]
    assert (out / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes()
    third = Following()
    run(tmp_path, facts, resume=True, watch=third)
    assert third.seen == []


def test_another_teacher_in_the_same_file_is_learned_from_anew(tmp_path, plain):
    facts = {**plain, "stages": [{**DISTILL, "steps": 1, "teacher": {"onnx": "big.onnx"}}]}
    run(tmp_path, facts)
    (tmp_path / "big.onnx").write_bytes((tmp_path / "small.onnx").read_bytes())

    again = Following()
    run(tmp_path, facts, resume=True, watch=again)

    assert again.seen == [0]


def test_a_student_comes_nearer_to_its_teacher_without_labels_on_the_calibration_images_too(tmp_path, plain):
    plain["data"].pop("train")
    changes = {"ema": 0, "augment": {"mirror": 0, "brightness": 0}}
    few, many = ({**plain, "stages": [{**DISTILL, **changes, "steps": steps}]} for steps in (1, 20))

    assert loss(run(tmp_path, many, "many")) < 0.7 * loss(run(tmp_path, few, "few"))


def test_the_network_itself_teaches_beside_labels(tmp_path, plain):
    plain["data"]["train"] = {**plain["data"]["calibration"], "count": 4}
    stage = {**DISTILL, "teacher": "self", "losses": [{"kind": "soft", "alpha": 0.5}], "validate_every": 3}

    out = run(tmp_path, {**plain, "stages": [stage]})

    assert loss(out) > 0
    assert "best metric 0." in (out / "state" / "0-distill" / "artifact.json").read_text()


OWN = """
import torch
from torch import nn
from avcompress.models import segmenter


def brightness(outputs, samples, wanted):
    assert all(sample.mask is None for sample in samples)
    return (outputs.mean() - wanted).square()


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = segmenter(10, 8)

    def forward(self, x):
        y = self.inner(x)
        return {"aux": y.mean(dim=1), "out": y}
"""


def test_a_loss_of_ones_own_stands_beside_the_teacher_and_needs_no_labels(tmp_path, plain):
    (tmp_path / "mine.py").write_text(OWN)
    own = {"loss": "mine:brightness", "loss_args": {"wanted": 50.0}, "import_from": ".", "losses": [{"kind": "labels"}]}
    own["losses"].append({"kind": "soft"})
    facts = {**plain, "stages": [{**DISTILL, **own}, {"kind": "ptq"}, {**QAT, **own}]}

    out = run(tmp_path, facts)

    assert 1500 < loss(out) < 3500  # the mean of a network that begins near 0 shall be 50
    told = json.loads((out / "state" / "2-qat" / "artifact.json").read_text())["log"]
    assert float(next(line for line in told if "steps" in line and "qat" in line).split("loss ")[1].split(",")[0]) > 500
    (tmp_path / "mine.py").write_text(OWN.replace("square()", "abs()"))
    sys.modules.pop("mine")
    again = Following()
    run(tmp_path, facts, resume=True, watch=again)
    assert again.seen == [0, 1, 2, 0, 1]


def test_a_student_with_several_outputs_learns_at_the_one_that_the_recipe_names(tmp_path, plain):
    (tmp_path / "two.py").write_text(OWN)
    plain["model"] = {"factory": "two:Two", "import_from": ".", "output": "out"}
    plain["data"]["train"] = {**plain["data"]["calibration"], "count": 4}
    stage = {**DISTILL, "losses": [{"kind": "soft", "alpha": 0.5}, {"kind": "cwd"}], "validate_every": 3}

    out = run(tmp_path, {**plain, "stages": [stage, {"kind": "ptq"}, QAT]})

    assert [value.name for value in onnx.load(out / "model.onnx").graph.output] == ["out"]
    assert loss(out) > 0


LABELS = {"losses": [{"kind": "soft", "alpha": 0.3}]}
UNLABELLED = r"data\.train: expected a format with masks for segmentation, got 'images' with no labels; give labelled "
UNLABELLED += r"images, or stages\[{}\] \({}\) losses that need no labels"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{**DISTILL, **LABELS}], UNLABELLED.format(0, "distill")),
        ([{"kind": "ptq"}, {**QAT, "losses": [{"kind": "labels"}]}], UNLABELLED.format(1, "qat")),
        ([{**DISTILL, "teacher": "self"}], r"stages\[0\]\.teacher: expected another network, got self"),
        (
            [{**DISTILL, "teacher": "self", **LABELS, "losses": [*LABELS["losses"], {"kind": "mutual"}]}],
            r"stages\[0\]\.teacher: expected another network, got self",
        ),
        (
            [{**DISTILL, "loss": "cross_entropy"}],
            r"stages\[0\]\.loss: expected a loss of kind labels, or alpha above 0, that cross_entropy is for, got none",
        ),
        (
            [{"kind": "ptq"}, {**QAT, "loss": "cross_entropy"}],
            r"stages\[1\]\.loss: expected a loss of kind labels, or alpha above 0",
        ),
        ([{**DISTILL, **LABELS, "loss": "yolox"}], r"stages\[0\]\.loss: expected one that fits the task, segmentation"),
        (
            [{**DISTILL, **LABELS, "loss": "mine:gone", "import_from": "nowhere"}],
            r"stages\[0\]\.import_from: expected a folder, got nothing",
        ),
        ([{**DISTILL, "teacher": {"onnx": "gone.onnx"}}], r"stages\[0\]\.teacher\.onnx: expected a file, got nothing"),
        (
            [{"kind": "ptq"}, DISTILL],
            r"stages\[1\]: expected `distill` before `ptq`, got it after; order them: train",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused_before_the_work(tmp_path, plain, stages, message):
    with pytest.raises(RecipeError, match=message):
        run(tmp_path, {**plain, "stages": stages})
    assert not (tmp_path / "out").exists()


def test_labels_for_qat_without_training_images_are_those_of_calibration(tmp_path, plain):
    plain["data"].pop("train")
    plain["data"]["calibration"] = {"format": "images", "images": "plain"}
    facts = {**plain, "stages": [{"kind": "ptq"}, {**QAT, **LABELS}]}

    with pytest.raises(RecipeError, match=r"data\.calibration: expected a format with masks .* got 'images' with no"):
        run(tmp_path, facts)


def test_a_tap_that_fits_nothing_is_one_line_and_leaves_no_half_step(cli, tmp_path, plain):
    stage = {**DISTILL, "losses": [{"kind": "features", "taps": ["neck.*"]}]}
    recipe = write(tmp_path, {**plain, "stages": [stage]})

    code, _, complaint = cli("run", str(recipe), "--out", "out")

    assert code == 2
    assert "student: tap 'neck.*': expected a layer's or tensor's name, or an fnmatch pattern" in " ".join(
        complaint.split()
    )
    assert not (tmp_path / "out" / "state" / "0-distill").exists()


def test_two_networks_that_do_not_fit_are_told_by_the_place(tmp_path, plain):
    teacher = {"factory": "avcompress.models:segmenter", "args": {"num_classes": CLASSES + 1, "width": 8}}

    with pytest.raises(ModelError, match=r"the outputs: expected \(1, 11, .* as the teacher's"):
        run(tmp_path, {**plain, "stages": [{**DISTILL, "teacher": teacher}]})
