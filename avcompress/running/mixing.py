"""What a `ptq` stage quantizes where its recipe lets it choose: by what layers lose and take, held to a floor."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avcompress.checkpoint import artifact_files, load_artifact
from avcompress.files import sha256_file, write_atomically
from avcompress.recipe import Cast, CorrectBias, Engine, Ptq, WeightOnly
from avcompress.recipe_mixed import Mixed
from avcompress.running.bench import Bench
from avcompress.running.judge import Judge, Reached, Scorer
from avcompress.running.targeting import cast_of, engine_of, offered
from avcompress.running.training import under_way
from avcompress.search.assignment import COMPUTED, Assignment, kinds_of, share_of_macs
from avcompress.search.cache import Cache
from avcompress.search.chosen import Chosen, TriedChoice
from avcompress.search.formats import Formats, formats_of
from avcompress.search.latency.counted import Counted
from avcompress.search.latency.measured import Measured
from avcompress.search.latency.roofline import Roofline
from avcompress.search.latency.source import FromFile, LatencySource, Subject
from avcompress.search.pool import Here, Pool, Processes
from avcompress.search.ray_pool import connected
from avcompress.search.sensitivity.measure import Material, Metric, measure_sensitivity
from avcompress.search.solve.evolve import POPULATION, Evolution, evolve
from avcompress.search.solve.front import Solve, front
from avcompress.search.solve.greedy import solve_greedily
from avcompress.search.solve.palettes import over_palettes
from avcompress.search.solve.problem import SLACK, Budget, Problem, Solution, problem_of, refuse_unreachable
from avcompress.search.solve.program import solve_exactly
from avcompress.search.stages import casting, float_layers, fp32_layers, quantizing, stages_for
from avcompress.search.verify import Limits, Outcome, Tried, Verified, verify
from avcompress.spec import Artifact, Track, untracked
from avcompress.state import step_key
from calibration.batches import Batches
from calibration.statistics import Statistics
from calibration.statistics_file import load_statistics
from engines.profile_load import load_profile
from validation.machine import processors, runtime_versions

CHOSEN = "chosen.json"
_CHOOSE = "choose"


@dataclass(frozen=True)
class PrecisionChoice:
    """The choice of one stage: by what it is made.

    Attributes:
        bench: of the run.
        where: the stage's place in the recipe.
        stage: its settings.
        mixed: those of the choice.
        track: watches what is measured.
    """

    bench: Bench
    where: str
    stage: Ptq
    mixed: Mixed
    track: Track = untracked

    @cached_property
    def engine(self) -> Engine:
        """Whose times count, and which the floor is kept on."""
        return engine_of(self.bench.engines, self.mixed.backend, f"{self.where}.mixed")

    @property
    def key(self) -> list[object]:
        """What decides the choice beside the network and its statistics."""
        bench = self.bench
        source = bench.selection
        known: list[object] = [self.stage.model_dump(), self.engine.model_dump(exclude={"required"}), self.corrections]
        known += [self.cast.model_dump()] if self.cast is not None else []
        if self.mixed.machine is not None:
            machine = load_profile(self.mixed.machine)
            known += [machine.profile.model_dump(mode="json"), machine.name]
        known += [bench.recipe.task.model_dump(), bench.recipe.preprocess.model_dump(), bench.classes]
        known += [sha256_file(self._times_path)] if self._times_path is not None else [processors()]
        return [*known, bench.calibration.fingerprint, source.fingerprint, runtime_versions()]

    @property
    def _times_path(self) -> Path | None:
        return None if self.mixed.times_file is None else self.bench.inputs[f"{self.where}.mixed.times_file"]

    @property
    def are_times_measured(self) -> bool:
        """Whether what layers take is measured on this machine's engine: not that of a target, and not counted."""
        return self.mixed.times == "measured" and self.mixed.times_file is None

    @property
    def corrections(self) -> tuple[CorrectBias, ...]:
        """The recipe's own, which every tried network goes through."""
        return tuple(stage for stage in self.bench.recipe.stages if isinstance(stage, CorrectBias))

    @property
    def cast(self) -> Cast | None:
        """Of what is float, the last stage, where the recipe has one: which layers it leaves FP32 is chosen, too."""
        return cast_of(self.bench.recipe)

    def make(self, before: Path, statistics: Path, name: str) -> Chosen:
        """Choose; raises what measuring raises, and DataError where no choice keeps what the stage asks for."""
        artifact = load_artifact(before)
        batches = Batches(self.bench.calibration, self.bench.recipe.preprocess, artifact.model.graph.input[0].name)
        known = load_statistics(statistics)
        formats = formats_of(artifact, offered(self.bench.recipe, self.stage), self.stage, batches, known)
        cache = Cache(under_way(self.bench, name))
        problem, says = self._problem(formats, batches, cache)
        options = _Options(self, formats, artifact, batches, known)
        if self.mixed.metric is None and self.mixed.method != "evolution":
            return options.by_numbers(says, problem, over_palettes(problem, lambda one: (self._by_numbers(one),)))
        judged = options.judge(cache)
        if self.mixed.method == "evolution":
            found = over_palettes(problem, lambda one: options.evolved(one, judged))
        else:
            found = over_palettes(problem, lambda one: front(one, solve=self._solve, share=self.mixed.min_macs))
        if self.mixed.metric is None:
            return options.by_numbers(says, problem, found)
        return options.held(says, problem, found, judged)

    def _problem(self, formats: Formats, batches: Batches, cache: Cache) -> tuple[Problem, str]:
        mixed, recipe = self.mixed, self.bench.recipe
        material = Material(formats, batches, mixed.images, recipe.task, recipe.preprocess.size, mixed.seed)
        metric: Metric | None = None
        if mixed.sensitivity == "metric" and mixed.metric is not None:
            scorer = Scorer(recipe, self.bench.job.data_root, self.bench.classes, self.engine, mixed.metric)
            metric = Metric(scorer, str(self.key), len(self.bench.selection))
        with self._pool() as pool:
            sensitivity = measure_sensitivity(mixed.sensitivity, material, cache, pool, metric, self.track)
        subject = Subject(formats.model, formats.layout, formats.choices, formats.assigned)
        table = self._times.table(subject)
        # 16 bits may overflow: what has no finite loss is no choice; FP32 loses nothing.
        able = {
            group: tuple(each for each in own if np.isfinite(sensitivity.loss(group, each)))
            for group, own in formats.choices.items()
        }
        return problem_of(formats.layout, able, sensitivity, table), table.says

    @contextlib.contextmanager
    def _pool(self) -> Iterator[Pool]:
        address = self.bench.job.ray
        # The metric is measured where the run's images and labels are.
        if address is not None and self.mixed.sensitivity != "metric":
            with connected(address) as cluster:
                yield cluster
        else:
            yield Here() if self.mixed.workers == 1 else Processes(self.mixed.workers)

    @property
    def _times(self) -> LatencySource:
        if self._times_path is not None:
            return FromFile(self._times_path)
        if self.mixed.machine is not None:
            return Roofline(load_profile(self.mixed.machine))
        return Measured(self.engine, seed=self.mixed.seed, track=self.track) if self.are_times_measured else Counted()

    @property
    def _solve(self) -> Solve:
        return solve_greedily if self.mixed.method == "greedy" else solve_exactly

    def _by_numbers(self, problem: Problem) -> Solution:
        """What loses least within a speed-up, or with a share quantized."""
        return self._solve(problem, Budget(ms=self.most_ms(problem), share=self.mixed.min_macs))

    def most_ms(self, problem: Problem) -> float:
        """What a network may take with the speed-up that is asked for."""
        slowest = problem.taken_ms(tuple(own.index("fp32") for own in problem.options))
        return slowest / self.mixed.speedup if self.mixed.speedup else problem.most_ms


class Judged(NamedTuple):
    """What measures networks, and what the float one reaches."""

    judge: Judge
    before: Reached


class _Options:
    """The networks that may be chosen, and what is told of them."""

    def __init__(
        self, choice: PrecisionChoice, formats: Formats, artifact: Artifact, batches: Batches, statistics: Statistics
    ) -> None:
        self.choice, self.formats = choice, formats
        self.artifact, self.batches, self.statistics = artifact, batches, statistics

    def share(self, assignment: Assignment) -> float:
        """Of the multiply-accumulates, quantized."""
        return share_of_macs(self.formats.layout, assignment, *COMPUTED)

    def judge(self, cache: Cache) -> Judged:
        """What measures them, and what the float network reaches."""
        judge = Judge(self.choice.bench, self.choice.engine, self.choice.mixed.metric, cache)
        return Judged(judge, judge(self.formats.model))

    def evolved(self, problem: Problem, judged: Judged) -> tuple[Solution, ...]:
        """Choices by descent from what the program offers, each of which is measured."""
        mixed = self.choice.mixed
        first = front(problem, POPULATION, share=mixed.min_macs)
        settings = Evolution(mixed.generations, mixed.seed, mixed.min_macs)

        def moved(assignment: Assignment) -> float:
            return judged.judge.moved(judged.before, self.network(assignment))

        return evolve(problem, first, moved, settings, self.choice.track)

    def by_numbers(self, says: str, problem: Problem, offered: tuple[Solution, ...]) -> Chosen:
        """What loses least of what is fast enough; raises DataError where nothing is."""
        most = self.choice.most_ms(problem)
        able = [each for each in offered if each.ms <= most * (1 + SLACK)]
        if not able:
            budget = Budget(ms=most, share=self.choice.mixed.min_macs)
            raise refuse_unreachable(problem, budget, min(each.ms for each in offered))
        best = min(able, key=lambda each: (each.loss, each.ms))
        return self.chosen(says, problem.assignment(best.choice), best)

    def held(self, says: str, problem: Problem, offered: tuple[Solution, ...], judged: Judged) -> Chosen:
        """The fastest that keeps the metric, of those that are tried; or the nearest to it."""
        mixed, before = self.choice.mixed, judged.before

        def evaluate(assignment: Assignment) -> Outcome:
            outcome = judged.judge.beside(before, self.network(assignment))
            if self.choice.are_times_measured:
                return outcome
            # The fastest is that of the target, whatever this machine thinks of it.
            return replace(outcome, ms=problem.taken_ms(problem.choice(assignment)), here_ms=outcome.ms)

        limits = Limits(mixed.max_drop_relative * before.metric, by_movement=mixed.held_by == "movement")
        found = verify(problem, offered, limits, evaluate, mixed.tries)
        best = found.nearest
        made = self.chosen(says, best.assignment, best.predicted)
        return made.model_copy(
            update={
                "kept": not best.broken,
                "metric": mixed.metric,
                "before": before.metric,
                "limit": limits.loss,
                "price": found.price.most,
                "tried": self._tried(found),
            }
        )

    def network(self, assignment: Assignment) -> Artifact:
        """Quantized as the recipe would, biases corrected and the rest cast where it does that."""
        from avcompress.quant.apply import apply
        from avcompress.quant.stages.ptq import quantize

        first, cast = stages_for(self.formats.layout, assignment, self.choice.stage, self.choice.cast)
        if isinstance(first, Ptq):
            made = quantize(self.artifact, first, self.batches, self.statistics)
        else:
            made = apply(first, self.artifact, self.batches)
        for stage in self.choice.corrections:
            made = apply(stage, made, self.batches)
        return made if cast is None else apply(cast, made, self.batches)

    def chosen(self, says: str, assignment: Assignment, solution: Solution) -> Chosen:
        """By the numbers alone."""
        layout = self.formats.layout
        return Chosen(
            format=kinds_of(assignment)[0],
            float_layers=float_layers(layout, assignment),
            fp32_layers=fp32_layers(layout, assignment) if self.choice.cast is not None else (),
            share=self.share(assignment),
            groups=len(self.formats.layout.groups),
            loss=solution.loss,
            ms=solution.ms,
            proven=solution.proven,
            times=says,
        )

    def _tried(self, found: Verified) -> tuple[TriedChoice, ...]:
        return tuple(map(self._told, found.tried))

    def _told(self, tried: Tried) -> TriedChoice:
        return TriedChoice(
            share=self.share(tried.assignment),
            loss=tried.predicted.loss,
            predicted_ms=tried.predicted.ms,
            drop=tried.outcome.loss,
            moved=tried.outcome.moved,
            ms=tried.outcome.ms if tried.outcome.here_ms is None else tried.outcome.here_ms,
            kept=not tried.broken,
        )


def chosen_before(bench: Bench, stage: Cast) -> Cast:
    """The stage as a choice of the run has it, where there was one."""
    for index, each in enumerate(bench.recipe.stages):
        if isinstance(each, Ptq) and each.mixed is not None:
            return casting(stage, _load(bench.state.folder / f"{index}-{_CHOOSE}").fp32_layers)
    return stage


def _load(folder: Path) -> Chosen:
    return Chosen.model_validate_json((folder / CHOSEN).read_bytes())


def choose_step(
    bench: Bench, index: int, stage: Ptq, before: Path, statistics: Path
) -> tuple[Ptq | WeightOnly, tuple[str, ...]]:
    """Take the step that chooses; returns the stage with layers named, and what there is to say of the choice."""
    mixed = stage.mixed
    if mixed is None:
        return stage, ()
    choice, name = PrecisionChoice(bench, f"stages[{index}]", stage, mixed), f"{index}-{_CHOOSE}"

    def compute(folder: Path, track: Track) -> None:
        made = replace(choice, track=track).make(before, statistics, name)
        write_atomically(folder / CHOSEN, made.model_dump_json(indent=1))

    key = step_key("choose", artifact_files(before), choice.key, sha256_file(statistics))
    folder = bench.step(name, f"choose precisions ({mixed.sensitivity}, {mixed.method})", key, compute, still=True)
    shutil.rmtree(under_way(bench, name), ignore_errors=True)
    made = _load(folder)
    return quantizing(stage, made.format, made.float_layers), made.lines
