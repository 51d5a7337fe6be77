"""Checkpoints: a training that is gone on with is the one that was never stopped; what does not belong is refused."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from avcompress.recipe_training import Train
from avcompress.spec import ModelError
from avcompress.train import Around, Store, run_steps
from avcompress.train.state import _refuse_other

STEPS = 24
INPUTS = torch.randn(STEPS, 4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Noisy(nn.Sequential):
    """With batch normalization's statistics and dropout, so that the random state counts, too."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(
            nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3), nn.Flatten(), nn.Linear(width * 16, 2)
        )


def noisy(width: int = 4, seed: int = 0) -> Noisy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Noisy(width)


def plan(**changes: object) -> Train:
    return Train.model_validate({"kind": "train", "steps": STEPS, "batch_size": 4, "keep_every": 5, **changes})


class StopError(Exception):
    """As if the process ended here."""


def fit(folder: Path | None, settings: Train, stop: int | None = None, module: nn.Module | None = None):
    module = module or noisy()

    def loss_of(turn):
        if turn.step == stop:
            raise StopError
        return F.cross_entropy(module(INPUTS[turn.step]), torch.tensor([0, 1, 0, 1]))

    store = None if folder is None else Store(folder, {"data": "d"})
    judge = lambda m: -float(m[4].weight.detach().sum())  # noqa: E731
    return run_steps(module, settings, loss_of, Around(store=store, judge=judge))


def state(trained) -> dict[str, torch.Tensor]:
    return trained.module.state_dict()


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "sgd"}, {"validate_every": 3, "patience": 3}, {"batch_norm": "frozen", "accumulate": 2}],
    ids=["adamw", "sgd", "early stop", "accumulated"],
)
@pytest.mark.parametrize("stops", [(7,), (5, 13, 21)])
def test_a_training_that_was_stopped_ends_like_one_that_was_not(tmp_path, changes, stops):
    settings = plan(**changes)
    for stop in stops:
        with contextlib.suppress(StopError):  # the early stop may come first
            fit(tmp_path, settings, stop)
    resumed, whole = fit(tmp_path, settings), fit(None, settings)

    assert same(state(resumed), state(whole))
    assert (resumed.loss, resumed.steps, resumed.metric) == (whole.loss, whole.steps, whole.metric)


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_state as t
from pathlib import Path
done = t.fit(Path({folder!r}), t.plan(keep_every=1))
torch.save(done.module.state_dict(), {out!r})
"""


def test_a_training_that_is_killed_at_any_moment_ends_like_one_that_was_not(tmp_path):
    out, rng = tmp_path / "out.pt", random.Random(0)  # noqa: S311
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "c"), out=str(out))
    killed = 0
    while not out.exists():
        process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
        if killed < 2:
            before = time.monotonic()
            while not (tmp_path / "c").exists() and process.poll() is None and time.monotonic() - before < 60:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL)

    assert same(torch.load(out, weights_only=True), state(fit(None, plan(keep_every=1))))
    assert [p.name for p in (tmp_path / "c").iterdir() if p.suffix != ".tmp"] == ["checkpoint.safetensors"]


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A checkpoint of step 5."""
    with pytest.raises(StopError):
        fit(tmp_path, plan(), 7)
    return tmp_path


def test_a_checkpoint_of_other_settings_names_what_differs(stopped):
    with pytest.raises(
        ModelError, match=r"got one with learning_rate 0\.002 instead of 0\.1; undo .*, or delete the folder"
    ):
        fit(stopped, plan(learning_rate=0.1))


def test_what_differs_deep_inside_is_named_alone(tmp_path):
    def belongs(temperature):
        return {"settings": {"steps": 5, "losses": [{"kind": "soft", "weight": 1.0}, {"temperature": temperature}]}}

    with pytest.raises(ModelError, match=r"got one with losses\[1\]\.temperature 4\.0 instead of 9\.0; undo"):
        _refuse_other(belongs(4.0), belongs(9.0), Store(tmp_path))
    with pytest.raises(ModelError, match=r"got one with preprocess\.size \[8, 8\] instead of \[8, 9\]; undo"):
        _refuse_other({"preprocess": {"size": [8, 8]}}, {"preprocess": {"size": [8, 9]}}, Store(tmp_path))


def test_settings_that_change_no_result_may_change(stopped):
    assert same(state(fit(stopped, plan(keep_every=7, hold_mb=0))), state(fit(None, plan())))


def test_a_checkpoint_of_another_network_of_other_weights_or_data_is_refused(stopped):
    with pytest.raises(ModelError, match="got one of another network;"):
        fit(stopped, plan(), module=noisy(width=5))
    with pytest.raises(ModelError, match="got one that started from other weights or scales: the network or a stage"):
        fit(stopped, plan(), module=noisy(seed=1))
    module = noisy()
    with pytest.raises(ModelError, match="got one of another data;"):
        run_steps(module, plan(), lambda _: module[4].weight.sum(), Around(store=Store(stopped, {"data": "e"})))


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_a_damaged_checkpoint_is_one_line(stopped, damage):
    path = stopped / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    match damage:
        case "cut":
            content = content[:-10]
        case "flip":
            content[-3] ^= 1
        case "other":
            content = bytearray(b"not at all")
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"expected a whole checkpoint, got .*; remove it, or start without --resume"):
        fit(stopped, plan())


def test_a_checkpoint_is_tensors_and_json_and_no_pickle(stopped):
    from safetensors import safe_open

    with safe_open(stopped / "checkpoint.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["avcompress"])

    assert (facts["step"], len(facts["tail"])) == (5, 5)
    assert facts["belongs"]["settings"]["steps"] == STEPS


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(tmp_path):
    module = noisy()

    def loss_of(turn):
        loss = module(INPUTS[turn.step]).square().mean()
        return loss * float("nan") if turn.step == 12 else loss

    around = Around(store=Store(tmp_path), names=lambda step: [f"{step}-{i}.jpg" for i in range(4)])
    with pytest.raises(
        ModelError,
        match=r"got nan at step 12 \(12-0\.jpg, .* 12-3\.jpg\); the checkpoint .*checkpoint.safetensors stays",
    ):
        run_steps(module, plan(), loss_of, around)
    from safetensors import safe_open

    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        assert json.loads(file.metadata()["avcompress"])["step"] == 10
        assert all(torch.isfinite(file.get_tensor(n)).all() for n in file.keys())  # noqa: SIM118
