"""Choices by descent: what is measured of whole networks decides, not a sum over their groups.

The model's own front is the first generation, so that nothing is lost by it. Children mix the options of two parents
and change a few; of two, the one lives that moves the answers less and takes less time. Losses are measured, times are
the model's: they add up far better.

Source: Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, 2002, in Optuna.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avcompress.search.assignment import Assignment
from avcompress.search.solve.front import unbeaten
from avcompress.search.solve.problem import SLACK, Choice, Problem, Solution
from avcompress.spec import MissingError, Track, untracked

if TYPE_CHECKING:
    import optuna

POPULATION = 16


@dataclass(frozen=True)
class Evolution:
    """How long it goes on, and what chance decides.

    Attributes:
        generations: of POPULATION networks each.
        seed: the same gives the same choices.
        share: of the multiply-accumulates that is quantized, at least.
    """

    generations: int
    seed: int = 0
    share: float = 0.0


def evolve(
    problem: Problem,
    first: Sequence[Solution],
    moved: Callable[[Assignment], float],
    settings: Evolution,
    track: Track = untracked,
) -> tuple[Solution, ...]:
    """Choices that no other one beats, by measured loss and predicted time; the fastest first.

    Args:
        problem: what there is to choose, and what it takes.
        first: choices to begin with.
        moved: what a network loses, measured; each choice is asked for once.
        settings: how long, and by which chance.
        track: watches the networks.

    Raises MissingError without Optuna.
    """
    study, known = _study(problem, settings), dict[Choice, float]()
    for solution in first:
        study.enqueue_trial(_named(problem, solution.choice))
    for _ in track(range(settings.generations * POPULATION), settings.generations * POPULATION):
        trial = study.ask()
        choice = tuple(
            own.index(trial.suggest_categorical(name, list(own)))
            for name, own in zip(problem.names, problem.options, strict=True)
        )
        trial.set_constraint("share", max(0.0, settings.share - problem.share(choice)))
        if choice not in known:
            known[choice] = moved(problem.assignment(choice))
        study.tell(trial, [known[choice], problem.taken_ms(choice)])
    return unbeaten(
        Solution(choice, loss, problem.taken_ms(choice), proven=False)
        for choice, loss in known.items()
        if problem.share(choice) >= settings.share - SLACK
    )


def _named(problem: Problem, choice: Choice) -> dict[str, Any]:
    return {name: own[option] for name, own, option in zip(problem.names, problem.options, choice, strict=True)}


def _study(problem: Problem, settings: Evolution) -> optuna.Study:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingError('mixed: expected optuna, got none installed; pip install "avcompress[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(
        population_size=POPULATION,
        mutation_prob=max(1 / len(problem.names), 0.02),
        seed=settings.seed,
    )
    return optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
