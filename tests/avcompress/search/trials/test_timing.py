"""A trial's engine timed once more, and its deadlines judged by that; what measures is made up here."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from avcompress import searching
from avcompress.recipe import Recipe
from avcompress.remote import Remote
from avcompress.search.trials import timing
from avcompress.search.trials.process import Task, record_of
from avcompress.search.trials.record import Figures, Line, Record, load_record
from avcompress.search.trials.report import markdown, report_of
from avcompress.search.trials.space import load_space
from avcompress.search.trials.timing import ALONE, TimedOn, timed_again, timed_in_turns
from avcompress.searching import SearchJob
from avcompress.spec import EngineError, LateError, MissingError
from avcompress.watch import SilentWatch
from validation.latency.facts import DeadlineCheck

LATENCY = [
    {"deadline_ms": 5.0, "engine": "ort", "decide": "proven_kept"},
    {"deadline_ms": 40.0, "max_miss_rate": 0.1, "scenario": "constant_stream", "engine": "ort"},
]


def check(name: str, measured: float | None, limit: float) -> DeadlineCheck:
    passed = measured is not None and measured <= limit
    return DeadlineCheck(
        name=name, decide="point", value=measured, low=None, high=None, measured=measured, limit=limit, unit="ms",
        passed=passed, note="",
    )  # fmt: skip


def facts(scenario: str, p50_ms: float, *checks: DeadlineCheck) -> Any:
    latency = SimpleNamespace(p50=SimpleNamespace(ms=p50_ms))
    return SimpleNamespace(scenario=SimpleNamespace(scenario=scenario, latency=latency), checks=checks)


@pytest.fixture
def trial(job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A trial that was judged: its recipe has two deadlines, its report tells of ONNX Runtime."""
    folder = tmp_path / "trial"
    (folder / "run").mkdir(parents=True)
    recipe = Recipe.model_validate({**job, "contract": {**job["contract"], "latency": LATENCY}})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_unset=True)))
    (folder / "run" / "report.json").write_text("{}")
    monkeypatch.setattr(timing.Report, "model_validate_json", lambda _: SimpleNamespace(latency={"ort": None}))
    return Task(
        key="k", number=3, tier=0, share=1.0, suggestion={}, recipe="", folder=folder, data_root=tmp_path,
        cache=tmp_path, metric="mIoU", limit_s=60, until=1e12,
    )  # fmt: skip


def judged(task: Task) -> Record:
    lines = (
        Line(name="mIoU @ ort", measured=0.8, sense=">=", limit=0.7, miss=0.0, timed=False),
        Line(name="p99 @ ort", measured=9.0, sense="<=", limit=5.0, miss=0.8, timed=True),
    )
    figures = Figures(accuracy=0.8, latency_ms=8.0, size_bytes=7)
    return record_of(task, "judged", 2.0).model_copy(update={"figures": figures, "lines": lines})


def test_latency_and_deadlines_are_those_that_were_measured_anew_and_nothing_else_changes(trial: Task) -> None:
    asked: list[list[str]] = []

    def bench(folder: Path, options: Sequence[str]) -> Any:
        assert folder == trial.folder / "run" / "engines" / "ort"
        asked.append(list(options))
        if "constant_stream" in options:
            return facts("constant_stream", 30.0, check("miss rate", 0.2, 0.1))
        return facts("single_stream", 3.0, check("p99", 4.0, 5.0))

    found = timed_again(judged(trial), trial.folder, bench, "the vehicle")

    assert found.figures == Figures(accuracy=0.8, latency_ms=3.0, size_bytes=7)
    assert [(line.name, line.measured, pytest.approx(line.miss)) for line in found.lines] == [
        ("mIoU @ ort", 0.8, 0.0), ("p99 @ ort", 4.0, 0.0), ("miss rate of 40 ms, constant_stream @ ort", 0.2, 1.0),
    ]  # fmt: skip
    assert (found.timed_on, found.met) == ("the vehicle", False)
    assert [options[options.index("--deadline-ms") + 1] for options in asked] == ["5.0", "40.0"]
    assert "--rate" not in asked[0]
    assert asked[1][asked[1].index("--max-miss-rate") + 1] == "0.1"


def test_every_engine_that_has_a_deadline_is_timed_there_and_the_latency_is_that_of_the_first(
    trial: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    latency = {"openvino": None, "ort": None}
    monkeypatch.setattr(timing.Report, "model_validate_json", lambda _: SimpleNamespace(latency=latency))
    times = {"openvino": 2.0, "ort": 7.0}

    def bench(folder: Path, options: Sequence[str]) -> Any:
        scenario = "constant_stream" if "constant_stream" in options else "single_stream"
        checks = [check("p99", times[folder.name], 5.0)] if "5.0" in options else []
        return facts(scenario, times[folder.name], *checks)

    found = timed_again(judged(trial), trial.folder, bench, "the vehicle")

    assert found.figures.latency_ms == 2.0
    assert [(line.measured, line.passed) for line in found.lines if line.name == "p99 @ ort"] == [(7.0, False)]


def test_a_figure_that_could_not_be_measured_keeps_no_deadline(trial: Task) -> None:
    found = timed_again(
        judged(trial), trial.folder, lambda *_: facts("single_stream", 3.0, check("p99", None, 5.0)), "there"
    )

    (line,) = (line for line in found.lines if line.name == "p99 @ ort")
    assert (line.passed, line.miss) == (False, 1.0)


def test_an_engine_that_the_other_machine_refuses_fails_the_trial_and_a_lost_connection_ends_the_search(
    trial: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: Exception) -> Any:
        def bench(*_: Any) -> Any:
            raise error

        return lambda *_: bench

    timer = TimedOn(Remote("vehicle"))
    monkeypatch.setattr(timing, "bench_on", raising(EngineError("vehicle: built with another version")))
    found = timer(judged(trial), trial)
    assert (found.status, found.message) == ("failed", "vehicle: built with another version")
    monkeypatch.setattr(timing, "bench_on", raising(MissingError("--on vehicle: lost")))
    with pytest.raises(MissingError, match="lost"):
        timer(judged(trial), trial)


@pytest.mark.parametrize(
    ("trial_s", "left_s", "status", "limit_s"),
    [(60, 600, "judged", 60), (60, 20, "not begun", 20), (60, -1, "not begun", None)],
)
def test_timing_there_takes_no_longer_than_a_trial_and_the_budget(
    trial: Task, monkeypatch: pytest.MonkeyPatch, trial_s: float, left_s: float, status: str, limit_s: float | None
) -> None:
    limits: list[float] = []

    def late(remote: Remote, *_: Any) -> bytes:
        limits.append(remote.limit_s)
        raise LateError("--on vehicle: expected an answer")

    monkeypatch.setattr(timing, "run_remotely", late)
    found = TimedOn(Remote("vehicle"))(judged(trial), replace(trial, limit_s=trial_s, until=time.time() + left_s))

    assert found.status == status
    assert limits == ([] if limit_s is None else [pytest.approx(limit_s, abs=5)])


def test_a_trial_that_is_timed_too_late_there_stays_judged_and_keeps_no_deadline_until_it_is_timed(
    trial: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: Any) -> bytes:
        raise LateError("--on vehicle: expected an answer")

    monkeypatch.setattr(timing, "run_remotely", late)
    fast = judged(trial)
    fast = fast.model_copy(update={"lines": tuple(line.model_copy(update={"miss": 0.0}) for line in fast.lines)})
    found = TimedOn(Remote("vehicle"))(fast, trial)
    later = timed_again(found, trial.folder, lambda *_: facts("single_stream", 3.0, check("p99", 4.0, 5.0)), "vehicle")

    assert (found.status, found.message, found.timed_on) == ("judged", "not timed on vehicle: ended after 60 s", "")
    assert found.figures == Figures(accuracy=0.8, latency_ms=None, size_bytes=7)
    assert (fast.met, found.broken) == (True, ("p99 @ ort",))
    assert (later.figures.latency_ms, later.message, later.lines[1].measured) == (3.0, "", 4.0)


def test_a_bench_here_that_hangs_is_ended(trial: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "command_of", lambda _: ["sleep", "60"])

    with pytest.raises(LateError, match=r"within 0\.2 s"):
        timing.bench_here(0.2)(trial.folder, [])


@pytest.mark.parametrize("name", ["recipe.yaml", "run/report.json"])
def test_a_damaged_file_of_a_trial_is_told(trial: Task, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.undo()
    (trial.folder / name).write_text("{")

    with pytest.raises(EngineError, match="expected the trial's recipe and report, got damaged ones"):
        timed_again(judged(trial), trial.folder, lambda *_: facts("single_stream", 3.0), "there")


def test_a_trial_that_was_judged_is_kept_where_the_connection_is_lost_and_only_timed_by_resume(
    searched: Any, fake_runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="the extra `search` is not installed")
    path = searched([{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}}], shares=[1.0])
    lost, asked = {"now": True}, list[Remote]()

    def again(record: Record, folder: Path, bench: Any, where: str) -> Record:
        if lost["now"] and record.number == 1:
            raise MissingError("--on vehicle: lost")
        return record.model_copy(update={"timed_on": where})

    def searching_by(runner: Any) -> Any:
        job = SearchJob(load_space(path), tmp_path, tmp_path / "out", True, runner=runner, remote=Remote("vehicle"))
        return searching.execute_search(job, SilentWatch())

    monkeypatch.setattr(timing, "timed_again", again)
    monkeypatch.setattr(searching, "require_remote", asked.append)
    first, later = fake_runner(), fake_runner()
    with pytest.raises(MissingError, match="lost"):
        searching_by(first)
    lost["now"] = False
    report = searching_by(later)

    assert asked == [Remote("vehicle")] * 2
    assert (len(first.ran), later.ran) == (2, [])
    assert [each.timed_on for each in report.trials] == ["vehicle", "vehicle"]
    assert load_record(tmp_path / "out" / "trials" / report.trials[1].key[:16], report.trials[1].key).timed_on


def test_a_machine_that_does_not_answer_ends_the_search_before_the_first_trial(
    searched: Any, fake_runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="the extra `search` is not installed")

    def absent(remote: Remote) -> None:
        raise MissingError(f"--on {remote.host}: no answer")

    monkeypatch.setattr(searching, "require_remote", absent)
    runner = fake_runner()
    space = load_space(searched(shares=[1.0]))
    job = SearchJob(space, tmp_path, tmp_path / "out", runner=runner, remote=Remote("vehicle"))
    with pytest.raises(MissingError, match="no answer"):
        searching.execute_search(job, SilentWatch())

    assert runner.ran == []
    assert not (tmp_path / "out").exists()


def test_after_trials_side_by_side_the_front_is_timed_alone_until_the_winner_has_been(
    searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = SearchJob(load_space(searched(shares=[1.0])), tmp_path, tmp_path / "out")
    records = [judged_with(*each) for each in ((0, 0.9, 1.0), (1, 0.8, 2.0), (2, 0.7, 9.0))]
    base = report_of("x", "mIoU", records, "latency")
    assert base.front == ("0",)
    alone = {0: 5.0, 1: 1.5}

    def again(record: Record, folder: Path, bench: Any, where: str) -> Record:
        if record.number not in alone:
            raise EngineError("not for this machine")
        figures = record.figures.model_copy(update={"latency_ms": alone[record.number]})
        return record.model_copy(update={"figures": figures, "timed_on": where})

    monkeypatch.setattr(searching, "timed_again", again)
    found = searching._timed_alone(job, base, time.time() + 60, SilentWatch())

    assert [(each.number, each.figures.latency_ms) for each in found.trials] == [(0, 5.0), (1, 1.5), (2, 9.0)]
    assert (found.chosen, found.front) == ("1", ("0", "1"))
    assert [each.timed_on for each in found.trials] == [ALONE, ALONE, ""]
    assert load_record(tmp_path / "out" / "trials" / "1", "1").timed_on == ALONE


@pytest.mark.parametrize(("left_s", "timed", "chosen"), [(60.0, [0, 1, 2], "2"), (-1.0, [0], "0")])
def test_a_trial_that_a_disturbed_latency_alone_has_beaten_is_timed_alone_as_long_as_there_is_budget(
    searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_s: float, timed: list[int], chosen: str
) -> None:
    job = SearchJob(load_space(searched(shares=[1.0])), tmp_path, tmp_path / "out")
    late = Line(name="p99 @ ort", measured=9.0, sense="<=", limit=5.0, miss=0.8, timed=True)
    wrong = Line(name="mIoU @ ort", measured=0.05, sense=">=", limit=0.1, miss=0.5, timed=False)
    beaten, disturbed = judged_with(1, 0.8, 2.0), judged_with(2, 0.7, 9.0)
    records = [
        judged_with(0, 0.9, 1.0),
        beaten,
        disturbed.model_copy(update={"lines": (*disturbed.lines, late)}),
        judged_with(3, 0.05, 9.0).model_copy(update={"lines": (wrong,)}),
        judged_with(4, 0.8, 9.0).model_copy(update={"share": 0.5}),
    ]
    tried: list[int] = []

    def again(record: Record, folder: Path, bench: Any, where: str) -> Record:
        tried.append(record.number)
        figures = record.figures.model_copy(update={"latency_ms": {0: 1.0, 1: 2.0, 2: 0.5}[record.number]})
        kept = tuple(line.model_copy(update={"miss": 0.0}) for line in record.lines)
        return record.model_copy(update={"figures": figures, "lines": kept, "timed_on": where})

    monkeypatch.setattr(searching, "timed_again", again)
    found = searching._timed_alone(job, report_of("x", "mIoU", records, "latency"), time.time() + left_s, SilentWatch())

    assert (sorted(tried), found.chosen) == (timed, chosen)


def test_a_trial_that_hangs_when_it_is_timed_alone_stays_judged_and_is_not_run_again(
    searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = SearchJob(load_space(searched(shares=[1.0])), tmp_path, tmp_path / "out")

    def again(record: Record, folder: Path, bench: Any, where: str) -> Record:
        if record.number == 0:
            raise LateError("bench: expected an end")
        return record.model_copy(update={"timed_on": where})

    monkeypatch.setattr(searching, "timed_again", again)
    base = report_of("x", "mIoU", [judged_with(0, 0.9, 1.0), judged_with(1, 0.8, 2.0)], "latency")
    found = searching._timed_alone(job, base, time.time() + 60, SilentWatch())

    assert [(each.status, each.timed_on) for each in found.trials] == [("judged", ""), ("judged", ALONE)]
    assert load_record(tmp_path / "out" / "trials" / "0", "0") is None  # what the trial itself has left holds


def test_trials_are_run_in_turns_and_their_latencies_have_a_noise(trial: Task, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        shutil.copytree(trial.folder, folder)
    asked: list[Any] = []

    def bench_beside(others: Sequence[Path]) -> Any:
        def bench(folder: Path, options: Sequence[str]) -> Any:
            asked.append([*options[:2], *(path.relative_to(tmp_path).as_posix() for path in (folder, *others))])
            return SimpleNamespace(in_turns=[SimpleNamespace(p50_ms=ms, noise_ms=0.5) for ms in (3.0, 4.0, 5.0)])

        return bench

    found = timed_in_turns([(judged(trial), folder) for folder in folders], bench_beside)

    assert asked == [["--runs", "5", *(f"{name}/run/engines/ort" for name in "abc")]]
    assert [(each.figures.latency_ms, each.figures.noise_ms) for each in found] == [(3.0, 0.5), (4.0, 0.5), (5.0, 0.5)]
    assert [each.lines for each in found] == [judged(trial).lines] * 3


class Turns:
    """In the place of `timed_in_turns`: who was run, and what it took; the errors are raised first."""

    def __init__(self, true: dict[int, float], *errors: Exception) -> None:
        self.true, self.errors, self.ran = true, list(errors), list[list[int]]()

    def __call__(self, trials: Any, _: Any) -> list[Record]:
        self.ran.append([each.number for each, _ in trials])
        if self.errors:
            raise self.errors.pop(0)
        return [in_turns(each, self.true[each.number]) for each, _ in trials]


def in_turns(record: Record, ms: float) -> Record:
    figures = record.figures.model_copy(update={"latency_ms": ms, "noise_ms": 0.4})
    return record.model_copy(update={"figures": figures})


@pytest.fixture
def out_job(searched: Any, tmp_path: Path) -> SearchJob:
    """A search that is at its end."""
    return SearchJob(load_space(searched(shares=[1.0], trial_s=60)), tmp_path, tmp_path / "out")


def test_the_best_the_front_and_what_is_near_are_run_in_turns(
    out_job: SearchJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of different moments: 0 seems the fastest, and 2, which breaks another line, far too slow for the front.
    wrong = Line(name="mIoU @ ort", measured=0.05, sense=">=", limit=0.1, miss=0.5, timed=False)
    records = [judged_with(0, 0.8, 10.0), judged_with(1, 0.9, 28.0), judged_with(2, 0.05, 20.0)]
    records[2] = records[2].model_copy(update={"lines": (wrong,)})
    turns = Turns({0: 22.0, 1: 22.5, 2: 20.0})
    monkeypatch.setattr(searching, "timed_in_turns", turns)
    base = report_of("x", "mIoU", records, "latency")
    assert (base.chosen, base.front) == ("0", ("0", "1"))
    found = searching._compared(out_job, base, time.time() + 60, again=False, watch=SilentWatch())

    assert turns.ran == [[0, 1, 2]]
    assert (found.chosen, found.front) == ("1", ("0", "1", "2"))  # 0 and 1 are as fast as each other
    assert load_record(tmp_path / "out" / "trials" / "1", "1").figures.noise_ms == 0.4


@pytest.mark.parametrize(("left_s", "rising", "ran"), [(60, 0.001, 16), (60, 0, 16), (-1, 0.001, 16), (-1, 0, 1)])
def test_never_more_than_16_engines_are_loaded_at_once_and_without_budget_the_front_alone(
    out_job: SearchJob, monkeypatch: pytest.MonkeyPatch, left_s: float, rising: float, ran: int
) -> None:
    records = [judged_with(number, 0.5 + number * rising, 10 * 1.03**number) for number in range(60)]
    turns = Turns({number: 10.0 - number / 100 for number in range(60)})
    monkeypatch.setattr(searching, "timed_in_turns", turns)
    base = report_of("x", "mIoU", records, "accuracy")
    found = searching._compared(out_job, base, time.time() + left_s, again=False, watch=SilentWatch())

    best = int(base.chosen or 0)
    assert turns.ran == ([[best, *(number for number in range(60) if number != best)][:ran]] if ran > 1 else [])
    assert found.chosen in found.front


def test_engines_run_in_turns_have_the_time_of_as_many_trials(
    out_job: SearchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[float, int]] = []

    def bench_at(remote: Remote | None, limit_s: float, beside: Sequence[Path]) -> Any:
        assert remote is None
        limits.append((limit_s, len(beside)))

    def timed(trials: Any, bench_beside: Any) -> list[Record]:
        bench_beside([folder for _, folder in trials[1:]])
        return [in_turns(each, 1.0) for each, _ in trials]

    monkeypatch.setattr(searching, "bench_at", bench_at)
    monkeypatch.setattr(searching, "timed_in_turns", timed)
    base = report_of("x", "mIoU", [judged_with(number, 0.5, 9.0 + number) for number in range(5)], "latency")
    searching._compared(out_job, base, time.time() + 60, again=False, watch=SilentWatch())

    assert limits == [(300.0, 4)]


def test_trials_that_cannot_be_run_in_turns_keep_their_own_latencies_and_that_is_told(out_job: SearchJob) -> None:
    base = report_of("x", "mIoU", [judged_with(0, 0.9, 2.0), judged_with(1, 0.8, 1.0)], "latency")
    told: list[str] = []
    watch = SilentWatch()
    watch.note = told.append  # type: ignore[method-assign]
    found = searching._compared(out_job, base, time.time() + 60, again=False, watch=watch)

    assert found == base.model_copy(update={"notes": tuple(told)})
    (note,) = told
    assert note.startswith("2 trials are not timed in turns: ")
    assert note in markdown(found)


def test_an_engine_that_fails_is_left_out_and_the_others_are_compared(
    out_job: SearchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns({0: 5.0, 2: 4.0}, EngineError("no such engine"))

    def again(record: Record, folder: Path, bench: Any, where: str) -> Record:
        if record.number == 1:
            raise EngineError("no such engine")
        return record

    monkeypatch.setattr(searching, "timed_in_turns", turns)
    monkeypatch.setattr(searching, "timed_again", again)
    base = report_of("x", "mIoU", [judged_with(number, 0.5, 9.0 + number) for number in range(3)], "latency")
    found = searching._compared(out_job, base, time.time() + 60, again=False, watch=SilentWatch())

    assert turns.ran == [[0, 1, 2], [0, 2]]
    assert found.notes == ("not timed in turns: 1: no such engine",)
    assert [each.figures.latency_ms for each in found.trials] == [5.0, 10.0, 4.0]
    assert found.chosen == "2"


@pytest.mark.parametrize("said", ["--on vehicle: expected a connection by SSH", "vehicle: exit code 137: Killed"])
def test_a_search_whose_engines_cannot_be_run_in_turns_on_the_other_machine_leaves_its_results_all_the_same(
    searched: Any, fake_runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    pytest.importorskip("optuna", reason="the extra `search` is not installed")
    path = searched([{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}}], shares=[1.0])
    monkeypatch.setattr(searching, "timed_in_turns", Turns({}, MissingError(said)))
    monkeypatch.setattr(searching, "require_remote", lambda _: None)
    monkeypatch.setattr(timing, "timed_again", lambda record, *_: record.model_copy(update={"timed_on": "vehicle"}))
    job = SearchJob(load_space(path), tmp_path, tmp_path / "out", runner=fake_runner(), remote=Remote("vehicle"))
    report = searching.execute_search(job, SilentWatch())

    assert report.notes == (f"2 trials are not timed in turns: {said}",)
    assert said in (tmp_path / "out" / "search.md").read_text()
    assert said in (tmp_path / "out" / "index.html").read_text()


def judged_with(number: int, accuracy: float, ms: float) -> Record:
    line = Line(name="mIoU @ ort", measured=accuracy, sense=">=", limit=0.1, miss=0.0, timed=False)
    return Record(
        key=str(number), number=number, tier=0, share=1.0, suggestion={}, status="judged", seconds=1.0,
        figures=Figures(accuracy=accuracy, latency_ms=ms, size_bytes=10), lines=(line,),
    )  # fmt: skip
