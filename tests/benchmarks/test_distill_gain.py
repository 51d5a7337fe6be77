"""The benchmark compares what it says it does, and ends with 1 where the teacher is worth too little."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "benchmarks")]

import distill_gain  # noqa: E402
from distill_gain import LABELS, OTHERS, TAUGHT, Job, losses_of  # noqa: E402

from avcompress.recipe_distill import Distill  # noqa: E402
from avcompress.recipe_load import load_recipe  # noqa: E402

MEASURED = {(LABELS, 0): 0.30, (LABELS, 1): 0.32, (TAUGHT, 0): 0.33, (TAUGHT, 1): 0.31}


@pytest.fixture
def job() -> Job:
    recipe = load_recipe(distill_gain.RECIPE)
    return Job(recipe, next(stage for stage in recipe.stages if isinstance(stage, Distill)), Path(), (), ())


@pytest.mark.parametrize("arm", [LABELS, TAUGHT, *OTHERS])
def test_arms_differ_in_their_losses_alone_and_all_learn_from_labels(monkeypatch, job, arm):
    asked = []
    monkeypatch.setattr(distill_gain, "trained", lambda _, stage, seed: asked.append((stage, seed)))
    monkeypatch.setattr(distill_gain, "measure", lambda *_: 0.5)

    assert distill_gain.train_one(job, arm, 7) == 0.5

    ((stage, seed),) = asked
    assert seed == stage.seed == 7
    assert stage.losses[0].kind == "labels"
    assert (len(stage.losses) == 1) == (arm == LABELS)
    assert stage.model_dump(exclude={"losses", "seed"}) == job.stage.model_dump(exclude={"losses", "seed"})


def test_the_labels_arm_has_the_recipes_weights_of_classes(job):
    assert job.stage.loss_args == {"class_weights": "balanced"}
    assert losses_of(job, LABELS) == [{"kind": "labels"}]


@pytest.mark.parametrize(("gain", "code"), [(0.0, 0), (0.005, 1)])
def test_it_ends_with_1_below_a_point_in_the_mean_and_prints_a_table(monkeypatch, capsys, tmp_path, job, gain, code):
    monkeypatch.setattr(distill_gain, "open_job", lambda *_: job)
    monkeypatch.setattr(distill_gain, "train_one", lambda _, arm, seed: MEASURED[arm, seed] + gain * (arm == LABELS))
    monkeypatch.setattr(sys, "argv", ["-", "--data-root", str(tmp_path), "--seeds", "0", "1"])

    with pytest.raises(SystemExit) as ended:
        distill_gain.main()

    assert ended.value.code == code
    assert "| recipe | 0.3300, 0.3100 | 0.3200 |" in capsys.readouterr().out
