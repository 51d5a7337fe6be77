"""Searches with a runner that runs nothing: what is tried, in which order, and what is chosen."""

import itertools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from avcompress.recipe_load import load_recipe
from avcompress.search.trials import spending
from avcompress.search.trials.process import Task
from avcompress.search.trials.record import Record, save_record
from avcompress.search.trials.report import SearchReport
from avcompress.search.trials.space import load_space
from avcompress.searching import SearchJob, execute_search
from avcompress.spec import MissingError, RecipeError
from avcompress.watch import SilentWatch

pytest.importorskip("optuna", reason="the extra `search` is not installed")

Searched = Callable[..., Path]
QAT = {"choose": [None, {"kind": "qat", "steps": 40}]}


def searching(path: Path, runner: Any, out: str = "out", resume: bool = False) -> SearchReport:
    job = SearchJob(load_space(path), path.parent, path.parent / out, resume, runner=runner)
    return execute_search(job, SilentWatch())


def tried(runner: Any) -> list[tuple[float, dict[str, float]]]:
    return [(task.share, dict(task.suggestion)) for task in runner.ran]


def test_a_round_is_tried_with_a_share_of_the_images_and_its_best_with_all(
    searched: Searched, fake_runner: Any
) -> None:
    runner = fake_runner()
    report = searching(searched(keep=0.5), runner)

    assert [task.share for task in runner.ran] == [0.5] * 4 + [1.0] * 2
    rough = {record.number: record.figures.accuracy for record in report.trials if record.share == 0.5}
    best = sorted(rough, key=lambda number: -rough[number])[:2]
    assert {record.number for record in report.trials if record.share == 1} == set(best)
    assert report.met
    assert report.best.share == 1


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_same_seed_gives_the_same_trials_whatever_times_are_measured_and_another_seed_others(
    searched: Searched, fake_runner: Any, sampler: str
) -> None:
    found = []
    for seed, first in ((3, 1.0), (3, 9.0), (4, 1.0)):
        runner = fake_runner(times=itertools.count(first, -0.01 if first > 5 else 0.01))
        searching(searched(sampler=sampler, seed=seed, trials=12, width=4), runner)
        found.append(tried(runner))

    assert found[0] == found[1]
    assert found[0] != found[2]


def test_no_candidate_is_tried_twice(searched: Searched, fake_runner: Any) -> None:
    runner = fake_runner()
    stages = [{"kind": "ptq", "ranges": {"choose": ["mse", "minmax", "entropy"]}}]
    report = searching(searched(stages, trials=50, shares=[1.0]), runner)

    assert sorted(task.suggestion["stages[0].ranges"] for task in runner.ran) == [0, 1, 2]
    assert not report.spent


@pytest.mark.parametrize(
    ("floor", "stop", "tiers"), [(0.5, "met", {0}), (0.5, "budget", {0, 2}), (0.99, "met", {0, 2})]
)
def test_what_trains_comes_after_what_does_not_and_only_where_that_is_not_enough(
    searched: Searched, fake_runner: Any, floor: float, stop: str, tiers: set[int]
) -> None:
    runner = fake_runner(floor=floor)
    stages = [{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}}, QAT]
    searching(searched(stages, stop=stop), runner)

    order = [task.tier for task in runner.ran]
    assert order == sorted(order)
    assert set(order) == tiers
    trains = ["qat" in task.recipe for task in runner.ran]
    assert trains == [tier == 2 for tier in order]


def test_every_kind_of_a_stage_that_is_for_choice_is_tried(searched: Searched, fake_runner: Any) -> None:
    runner = fake_runner(floor=0.99)
    searching(searched([{"kind": "ptq"}, {"kind": {"choose": ["correct_bias", "adaround"]}}], shares=[1.0]), runner)

    assert [(task.tier, task.suggestion["stages[1].kind"]) for task in runner.ran] == [(0, 0), (1, 1)]


def test_training_is_as_much_shorter_as_there_are_fewer_images(searched: Searched, fake_runner: Any) -> None:
    runner = fake_runner(floor=0.99)
    searching(searched([{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}}, QAT]), runner)

    trained = {task.share: task.recipe for task in runner.ran if task.tier == 2}
    assert "steps: 20" in trained[0.5]
    assert "steps: 40" in trained[1.0]


def test_stages_that_do_not_go_together_are_not_tried(searched: Searched, fake_runner: Any) -> None:
    runner = fake_runner()
    stages = [{"choose": [{"kind": "ptq"}, {"kind": "dynamic"}]}, {"choose": [None, {"kind": "correct_bias"}]}]
    searching(searched(stages, shares=[1.0], trials=20), runner)

    assert sorted(tuple(task.suggestion.values()) for task in runner.ran) == [(0, 0), (0, 1), (1, 0)]


def test_a_contract_that_nothing_keeps_gives_the_nearest_candidate_and_the_line_in_the_way(
    searched: Searched, fake_runner: Any, tmp_path: Path
) -> None:
    report = searching(searched(trials=12), fake_runner(floor=0.99))

    assert (report.met, report.binding) == (False, ("mIoU @ ort",))
    assert report.best.figures.accuracy == max(record.figures.accuracy for record in report.trials if record.share == 1)
    assert "In the way: mIoU @ ort" in (tmp_path / "out" / "search.md").read_text()


def test_the_best_candidate_is_written_as_an_ordinary_recipe(
    searched: Searched, fake_runner: Any, tmp_path: Path
) -> None:
    path = searched()
    report = searching(path, fake_runner())

    assert load_recipe(tmp_path / "out" / "best.yaml") == load_space(path).recipe(report.best.suggestion)


@pytest.mark.parametrize("status", ["failed", "timed out", "refused"])
def test_a_trial_that_comes_to_nothing_is_recorded_and_the_search_goes_on(
    searched: Searched, fake_runner: Any, tmp_path: Path, status: str
) -> None:
    report = searching(searched(), fake_runner(statuses={0: status}))

    (lost,) = [record for record in report.trials if record.number == 0]
    assert (lost.status, lost.message) == (status, "as the test wants it")
    assert report.met
    saved = Record.model_validate_json((tmp_path / "out" / "trials" / lost.key[:16] / "record.json").read_bytes())
    assert saved == lost


@pytest.mark.parametrize(("status", "saved"), [("failed", True), ("lost", False)])
def test_what_may_not_be_the_trials_own_fault_is_tried_once_more_by_resume(
    searched: Searched, fake_runner: Any, tmp_path: Path, status: str, saved: bool
) -> None:
    report = searching(searched(), fake_runner(statuses={0: status}))
    (record,) = [each for each in report.trials if each.number == 0]
    again, then = fake_runner(), fake_runner()
    assert (tmp_path / "out" / "trials" / record.key[:16] / "record.json").exists() == saved
    mended = searching(searched(), again, resume=True)
    searching(searched(), then, resume=True)

    assert (again.ran[0].number, again.ran[0].share) == (0, 0.5)
    assert {each.status for each in mended.trials} == {"judged"}
    assert then.ran == []


def test_where_every_trial_was_lost_it_is_told_as_what_is_missing(searched: Searched, fake_runner: Any) -> None:
    with pytest.raises(MissingError, match="every trial was lost, the first one so: as the test wants it"):
        searching(searched(), fake_runner(statuses=dict.fromkeys(range(4), "lost")))


def test_where_every_trial_is_refused_the_first_message_is_told(searched: Searched, fake_runner: Any) -> None:
    with pytest.raises(RecipeError, match="every trial was refused, the first one so: as the test wants it"):
        searching(searched(), fake_runner(statuses=dict.fromkeys(range(4), "refused")))


def test_where_nothing_could_be_judged_nothing_is_chosen(searched: Searched, fake_runner: Any, tmp_path: Path) -> None:
    report = searching(searched(), fake_runner(statuses=dict.fromkeys(range(4), "failed")))

    assert (report.met, report.best, report.binding, report.front) == (False, None, (), ())
    assert not (tmp_path / "out" / "best.yaml").exists()


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_that_was_killed_goes_on_without_repeating_a_finished_trial_and_ends_the_same(
    searched: Searched, fake_runner: Any, sampler: str
) -> None:
    path = searched(sampler=sampler, trials=12)
    whole = fake_runner()
    expected = searching(path, whole, out="whole")
    first = fake_runner()

    def dying(task: Task) -> Record:
        if len(first.ran) == 7:
            raise _Killed
        return first(task)

    with pytest.raises(_Killed):
        searching(path, dying)
    second = fake_runner()
    report = searching(path, second, resume=True)

    assert tried(first) + tried(second) == tried(whole)
    assert report == expected


STATISTICS = [{"kind": "ptq", "statistics": {"choose": [None, "kept.npz"]}}]


def change(path: Path) -> None:
    """Another image, or another text in the network's file."""
    if path.suffix == ".png":
        shutil.copy(path.with_name("2.png"), path)
    else:
        path.write_bytes(path.read_bytes() + onnx.ModelProto(doc_string="changed").SerializeToString())


@pytest.mark.parametrize(
    ("changed", "again"),
    [("train/images/3.png", {0, 1}), ("val/labels/3.png", {0, 1}), ("net.onnx", {0, 1}), ("kept.npz", {1})],
)
def test_a_trial_is_repeated_where_a_file_that_it_reads_has_changed_and_no_other_one(
    searched: Searched, fake_runner: Any, tmp_path: Path, changed: str, again: set[int]
) -> None:
    (tmp_path / "kept.npz").write_bytes(b"statistics")
    path = searched(STATISTICS, shares=[1.0])
    searching(path, fake_runner())
    same, other = fake_runner(), fake_runner()
    searching(path, same, resume=True)
    change(tmp_path / changed)
    searching(path, other, resume=True)

    assert same.ran == []
    assert {task.suggestion["stages[0].statistics"] for task in other.ran} == again


@pytest.mark.parametrize(
    ("name", "there"),
    [("runtime_versions", {"openvino": "2030.9"}), ("processors", {"cpu": "another one"})],
)
def test_no_trial_is_kept_from_other_versions_of_the_runtimes_or_another_machine(
    searched: Searched, fake_runner: Any, monkeypatch: pytest.MonkeyPatch, name: str, there: Any
) -> None:
    path = searched(shares=[1.0])
    first, other, back = fake_runner(), fake_runner(), fake_runner()
    searching(path, first)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(f"avcompress.searching.{name}", lambda: there)
        searching(path, other, resume=True)
    searching(path, back, resume=True)

    assert tried(other) == tried(first)
    assert back.ran == []


def test_versions_of_runtimes_are_read_once_in_a_search(
    searched: Searched, fake_runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr("avcompress.searching.runtime_versions", lambda: read.append("") or {"openvino": "2030.9"})
    runner = fake_runner()
    searching(searched(shares=[1.0]), runner)

    assert len(runner.ran) > 1
    assert len(read) == 1


def test_a_latency_that_an_earlier_search_measured_in_turns_has_no_noise_in_the_next_one(
    searched: Searched, fake_runner: Any, tmp_path: Path
) -> None:
    path = searched(shares=[1.0])
    for record in searching(path, fake_runner()).trials:
        in_turns = record.figures.model_copy(update={"latency_ms": 7.0, "noise_ms": 0.1})
        save_record(record.model_copy(update={"figures": in_turns}), tmp_path / "out" / "trials" / record.key[:16])
    report = searching(path, fake_runner(), resume=True)

    assert {(each.figures.latency_ms, each.figures.noise_ms) for each in report.trials} == {(7.0, None)}


def test_a_trial_that_was_refused_for_a_file_that_is_there_now_is_tried_again(
    searched: Searched, fake_runner: Any, tmp_path: Path
) -> None:
    path = searched(STATISTICS, shares=[1.0])
    first, later = fake_runner(), fake_runner()
    searching(path, first)
    (tmp_path / "kept.npz").write_bytes(b"statistics")
    searching(path, later, resume=True)

    assert len(first.ran) == 2
    assert [task.suggestion["stages[0].statistics"] for task in later.ran] == [1]


def test_without_resume_everything_is_tried_again(searched: Searched, fake_runner: Any) -> None:
    path = searched()
    searching(path, fake_runner())
    again = fake_runner()
    searching(path, again)

    assert len(again.ran) == 6


def test_a_trial_that_timed_out_is_tried_again_where_it_may_take_longer(searched: Searched, fake_runner: Any) -> None:
    searching(searched(trial_s=1), fake_runner(statuses={0: "timed out"}))
    same, longer = fake_runner(), fake_runner()
    searching(searched(trial_s=1), same, resume=True)
    searching(searched(trial_s=2), longer, resume=True)

    assert same.ran == []
    assert longer.ran[0].number == 0


def test_a_search_ends_when_its_budget_is_spent_and_goes_on_with_a_larger_one(
    searched: Searched, fake_runner: Any
) -> None:
    def spending(runner: Any) -> Callable[[Task], Record]:
        def run(task: Task) -> Record:
            found = runner(task)
            return found.model_copy(update={"status": "not begun"}) if len(runner.ran) > 3 else found

        return run

    report = searching(searched(), spending(fake_runner()))
    assert report.spent
    rest = fake_runner()
    assert not searching(searched(), rest, resume=True).spent
    assert len(rest.ran) == 3


def test_seconds_of_earlier_commands_count_to_the_budget_those_of_trials_that_were_killed_too(
    searched: Searched, fake_runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    first, later, anew = fake_runner(), fake_runner(), fake_runner()

    def dying(task: Task) -> Record:
        first(task)
        time.sleep(0.5)
        raise _Killed

    with pytest.raises(_Killed):
        searching(searched(), dying)
    searching(searched(), later, resume=True)
    searching(searched(), anew)

    assert first.ran[0].until == anew.ran[0].until == 1600
    assert later.ran[0].until <= 1600 - 0.5


def test_seconds_are_written_while_they_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "_EVERY_S", 0.02)
    (tmp_path / spending.SPENT).write_text("40.5")
    with spending.counted(tmp_path) as before:
        end = time.monotonic() + 60
        while float((tmp_path / spending.SPENT).read_text()) <= 40.5 and time.monotonic() < end:
            time.sleep(0.01)
        assert float((tmp_path / spending.SPENT).read_text()) > 40.5

    assert before == 40.5


def test_a_folder_with_other_things_in_it_is_refused(searched: Searched, fake_runner: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()

    with pytest.raises(RecipeError, match=r"got one with 'thesis\.txt'"):
        searching(searched(), fake_runner())
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_report_reads_back_as_it_was(searched: Searched, fake_runner: Any, tmp_path: Path) -> None:
    report = searching(searched(), fake_runner())

    assert SearchReport.model_validate(json.loads((tmp_path / "out" / "search.json").read_text())) == report
