"""The `train` stages of a run: they go on from their checkpoint, and train ONNX files with a loss of the recipe."""

import json
import os
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
from onnx import numpy_helper

from avcompress.export import to_onnx
from avcompress.models import segmenter
from avcompress.recipe import Recipe
from avcompress.running.bench import Job, prepare
from avcompress.running.compress import compress
from avcompress.spec import DataError, MissingError, ModelError, RecipeError, Track
from avcompress.watch import SilentWatch

CLASSES = 10
SIZE = (64, 96)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(**changes: Any) -> dict[str, Any]:
    """A small segmenter that trains for six steps on rendered scenes; each step but the first leaves a checkpoint."""
    scenes = {"format": "scenes", "size": SIZE, "labels": "masks"}
    stage = {"kind": "train", "steps": 6, "batch_size": 2, "keep_every": 2} | changes.pop("train", {})
    facts: dict[str, Any] = {
        "name": "small",
        "task": {"kind": "segmentation"},
        "model": {"factory": "avcompress.models:segmenter", "args": {"num_classes": CLASSES, "width": 8}},
        "preprocess": {"size": SIZE, "mean": [114.0] * 3, "std": [58.0] * 3},
        "data": {
            "train": {**scenes, "count": 6},
            "calibration": {**scenes, "count": 2, "seed": 1},
            "validation": {**scenes, "count": 2, "seed": 2},
        },
        "stages": [stage, {"kind": "ptq"}],
        "target": {"engines": [{"backend": "ort"}]},
        "contract": {"accuracy": [{"metric": "mIoU", "min": 0.0}]},
    }
    return facts | changes


def run(folder: Path, facts: dict[str, Any], out: str, resume: bool = False, watch: Any = None) -> Path:
    """The steps up to the compressed network, with the folder that they are kept in."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(facts))
    bench = prepare(Job(Recipe.model_validate(facts), path, folder, folder / out, resume), watch or SilentWatch())
    bench.job.out.mkdir(exist_ok=True)
    compress(bench)
    return bench.job.out


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """What the job gives without interruption."""
    return run(tmp_path_factory.mktemp("whole"), job(), "out")


class Following(SilentWatch):
    """Counts the steps that the training takes, and interrupts it in front of one."""

    def __init__(self, interrupt: int | None = None) -> None:
        self.interrupt = interrupt
        self.seen: list[int] = []

    @contextmanager
    def step(self, *_: Any, **__: Any) -> Iterator[Track]:
        yield self._track

    def _track(self, items: Iterable[Any], *_: Any) -> Iterator[Any]:
        for index, item in enumerate(items):
            if isinstance(items, range):
                if index == self.interrupt:
                    raise KeyboardInterrupt
                self.seen.append(item)
            yield item


def weights(out: Path) -> bytes:
    return (out / "state" / "0-train" / "weights.safetensors").read_bytes()


def test_a_train_step_that_is_interrupted_goes_on_inside_and_ends_the_same(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, job(), "out", watch=Following(5))
    assert (tmp_path / "out" / "state" / "0-train-under-way" / "checkpoint.safetensors").exists()

    again = Following()
    out = run(tmp_path, job(), "out", resume=True, watch=again)

    assert again.seen[:2] == [4, 5]  # of six: the checkpoint is that of the fourth
    assert weights(out) == weights(whole)
    assert (out / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes()
    assert not (out / "state" / "0-train-under-way").exists()


def test_a_checkpoint_of_another_recipe_is_refused_and_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, job(), "out", watch=Following(5))

    folder = tmp_path / "out" / "state" / "0-train-under-way"
    with pytest.raises(
        ModelError,
        match=r"got one with learning_rate 0\.002 instead of 0\.01; undo the change, or delete the folder (.*) to",
    ) as told:
        run(tmp_path, job(train={"learning_rate": 0.01}), "out", resume=True)
    assert f"delete the folder {folder} to train anew" in str(told.value)
    other = job()
    other["data"]["train"]["seed"] = 9
    with pytest.raises(ModelError, match="expected a checkpoint of this training, got one of another data"):
        run(tmp_path, other, "out", resume=True)
    other = job(preprocess={"size": SIZE, "mean": [110.0] * 3, "std": [58.0] * 3})
    with pytest.raises(
        ModelError, match=r"got one with preprocess\.mean \[114\.0, .* instead of \[110\.0, 110\.0, 110\.0\]"
    ):
        run(tmp_path, other, "out", resume=True)

    assert (folder / "checkpoint.safetensors").exists()


def test_what_changes_no_result_may_change_before_it_goes_on(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, job(), "out", watch=Following(5))

    again = Following()
    out = run(tmp_path, job(train={"keep_every": 3, "hold_mb": 0}), "out", resume=True, watch=again)

    assert again.seen[:2] == [4, 5]
    assert weights(out) == weights(whole)


def test_the_contract_s_metric_is_measured_and_the_best_network_kept(tmp_path):
    out = run(tmp_path, job(train={"validate_every": 2, "patience": 1, "batch_norm": "reestimate"}), "out")

    (line,) = json.loads((out / "state" / "0-train" / "artifact.json").read_text())["log"][1:]
    assert "best metric 0." in line


# --- ONNX files


@pytest.fixture
def file(tmp_path) -> Path:
    """The small segmenter as an ONNX file."""
    path = tmp_path / "net.onnx"
    onnx.save(to_onnx(segmenter(CLASSES, 8), SIZE), path)
    return path


def test_an_onnx_file_is_trained_and_stays_the_graph_that_it_was(tmp_path, file):
    facts = job(model={"onnx": "net.onnx"}, train={"loss": "cross_entropy", "loss_args": {"class_weights": "balanced"}})
    out = run(tmp_path, facts, "out")

    before, after = onnx.load(file).graph, onnx.load(out / "state" / "network" / "model.onnx").graph
    assert [n.name for n in after.node] == [n.name for n in before.node]
    assert [i.name for i in after.initializer] == [i.name for i in before.initializer]
    values = [[numpy_helper.to_array(i) for i in graph.initializer] for graph in (before, after)]
    moved = [not np.array_equal(a, b) for a, b in zip(*values, strict=True)]
    assert sum(moved) > len(moved) / 2
    log = json.loads((out / "state" / "0-train" / "artifact.json").read_text())["log"]
    assert log[-1].startswith("train: 6 steps of 2 from 6 samples")


OWN = """
def brightness(outputs, samples, wanted):
    assert all(sample.mask is None for sample in samples)
    return (outputs.mean() - wanted).square()
"""


def test_a_detector_with_the_reference_s_output_is_trained_from_its_file(tmp_path):
    from avcompress.models import detector

    onnx.save(to_onnx(detector(6, 8), SIZE), tmp_path / "net.onnx")
    facts = job(model={"onnx": "net.onnx"}, train={"loss": "ltrb"}, task={"kind": "detection", "decode": "ltrb"})
    for source in facts["data"].values():
        source["labels"] = "boxes"
    facts["contract"] = {"accuracy": [{"metric": "AP", "min": 0.0}]}

    out = run(tmp_path, facts, "out")

    line = json.loads((out / "state" / "0-train" / "artifact.json").read_text())["log"][-1]
    assert 0 < float(line.split("loss ")[1].split(",")[0]) < 5


def test_a_loss_of_the_user_s_own_may_do_without_labels(tmp_path, file):
    (tmp_path / "own_loss_of_a_test.py").write_text(OWN)
    (tmp_path / "plain").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "plain" / f"{i}.png"), np.full((8, 8, 3), 80 * i, np.uint8))
    train = {
        "loss": "own_loss_of_a_test:brightness",
        "import_from": ".",
        "loss_args": {"wanted": 3.0},
        "steps": 20,
        "ema": 0,
    }
    facts = job(model={"onnx": "net.onnx"}, train=train)
    facts["data"]["train"] = {"format": "images", "images": "plain"}

    out = run(tmp_path, facts, "out")
    line = json.loads((out / "state" / "0-train" / "artifact.json").read_text())["log"][-1]
    assert float(line.split("loss ")[1].split(",")[0]) < 9  # the square of what it starts from

    with pytest.raises(
        RecipeError, match=r"stages\[0\]\.loss: expected a function 'brightnes' .*did you mean 'brightness'"
    ):
        run(tmp_path, job(model={"onnx": "net.onnx"}, train=train | {"loss": "own_loss_of_a_test:brightnes"}), "other")


def test_unlabelled_images_for_a_loss_that_needs_labels_are_one_line(tmp_path, file):
    (tmp_path / "plain").mkdir()
    cv2.imwrite(str(tmp_path / "plain" / "0.png"), np.zeros((8, 8, 3), np.uint8))
    facts = job(model={"onnx": "net.onnx"}, train={"loss": "cross_entropy"})
    facts["data"]["train"] = {"format": "images", "images": "plain"}

    with pytest.raises(
        (RecipeError, DataError), match=r"data\.train: expected a format with masks .* got 'images' with no"
    ):
        run(tmp_path, facts, "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            r"stages\[0\]\.loss: expected yolox, ltrb, cross_entropy or .* for an ONNX file, .* got nothing",
        ),
        ({"loss": "yolox"}, r"stages\[0\]\.loss: expected one that fits the task, segmentation, got yolox"),
        (
            {"loss": "cross_entropy", "loss_args": {"weight": 1}},
            r"loss_args: expected arguments of the loss, got 'weight'",
        ),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_before_the_work(tmp_path, file, changes, message):
    with pytest.raises(RecipeError, match=message):
        run(tmp_path, job(model={"onnx": "net.onnx"}, train=changes), "out")
    assert not (tmp_path / "out").exists()


def test_a_log_that_is_not_installed_is_missed_with_the_command_that_installs_it(tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else find(name, *rest)
    )

    with pytest.raises(
        MissingError, match=r'stages\[0\]\.log: expected mlflow, got none .* pip install "avcompress\[mlflow\]"'
    ):
        run(tmp_path, job(train={"log": "mlflow"}), "out")


# --- several processes


@pytest.mark.slow
def test_a_run_under_torchrun_trains_in_two_processes_and_reports_once(tmp_path):
    one = run(tmp_path, job(train={"batch_norm": "frozen"}), "one")
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*command, "avcompress", "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("contract met") == 1
    logs = [json.loads((out / "state/0-train/artifact.json").read_text())["log"][-1] for out in (one, tmp_path / "two")]
    first, second = (float(log.split("loss ")[1].split(",")[0]) for log in logs)
    assert second == pytest.approx(first, rel=1e-3)
