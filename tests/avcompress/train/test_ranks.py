"""Several processes, by torchrun on gloo: together they compute what one computes with the whole batch."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from avcompress import ranks
from avcompress.recipe_training import Train
from avcompress.spec import PeerError, RecipeError
from avcompress.train import Turn, settled

HERE = Path(__file__).parent
SCRIPT = HERE / "two_processes.py"


@pytest.fixture(scope="module")
def alone() -> dict[str, list[float]]:
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {what: module.curve(what) for what in module.NETWORKS}
    torch.set_num_threads(before)
    return found


@pytest.fixture(scope="module")
def two() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    path = os.pathsep.join([str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize("what", ["detector", "segmenter", "pixels"])
def test_two_processes_have_the_loss_curve_of_one_with_the_whole_batch(alone, two, what):
    lines = [line for line in two.stdout.splitlines() if line.startswith("{")]
    assert lines, two.stderr[-2000:]

    assert json.loads(lines[0])[what] == pytest.approx(alone[what], rel=2e-3)
    assert alone[what][5] != pytest.approx(alone[what][0], rel=1e-2)


def test_a_process_that_ends_ends_all(two):
    assert two.returncode != 0
    assert "peer: process 0 of 2: expected all of them to go on, got one that ended; see what it says" in two.stdout


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    settings = Train.model_validate({"kind": "train", "steps": 1, "batch_size": 4, "accumulate": 4})

    with pytest.raises(RecipeError, match="expected a multiple of 8, the processes times accumulate, got 4"):
        settled(settings, 6)


def test_turns_share_a_batch_in_equal_parts():
    assert [Turn(0, part, 4).share(8) for part in range(4)] == [slice(i, i + 2) for i in range(0, 8, 2)]


def test_alone_nothing_is_asked_of_anybody():
    value = torch.tensor(3.0)

    with ranks.joined():
        assert (ranks.count(), ranks.rank(), ranks.leads(), ranks.agreed(0.25)) == (1, 0, True, 0.25)
        assert ranks.mean(value) is value
        assert ranks.divisor(value, 4.0) == 4
        ranks.wait()


def test_an_error_of_the_user_s_own_is_not_taken_for_a_lost_process():
    with pytest.raises(RuntimeError, match="peer"), ranks.listening():
        raise RuntimeError("peer to peer")
    assert issubclass(PeerError, Exception)
