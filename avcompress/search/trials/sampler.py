"""Suggestions for the choices of a space, by Optuna: asked for in rounds, and told what came of them.

Source: Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; Optuna 5, TPESampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avcompress.search.trials.choices import Choice, Options, Suggestion, Value
from avcompress.search.trials.front import Objectives
from avcompress.spec import MissingError

if TYPE_CHECKING:
    import optuna

_WORST = 1e9
"""In the place of what was not measured: samplers know no infinity."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A suggestion that waits for what comes of it."""

    suggestion: Suggestion
    handle: optuna.Trial


@dataclass(frozen=True, eq=False)
class Sampler:
    """Suggests values for choices, of options no dearer than a tier where there are such.

    Attributes:
        study: what was suggested so far and what came of it.
        choices: of the space, those within options behind those that lead to them.
    """

    study: optuna.Study
    choices: tuple[Choice, ...]
    tier: int

    def ask(self) -> Asked:
        """The next suggestion, for the choices alone that it reaches."""
        trial = self.study.ask()
        suggestion: dict[str, Value] = {}
        for choice in self.choices:
            if all(suggestion.get(name) == option for name, option in choice.given):
                suggestion[choice.name] = _suggest(trial, choice, self.tier)
        return Asked(suggestion, trial)

    def tell(self, asked: Asked, result: Objectives | None) -> None:
        """What came of a suggestion; None: nothing that could be judged, or another one's twin."""
        import optuna

        if result is None:
            self.study.tell(asked.handle, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(asked.handle, [value if math.isfinite(value) else _WORST for value in result])


def open_sampler(kind: str, seed: int, choices: tuple[Choice, ...], tier: int) -> Sampler:
    """A sampler of `steady` objectives; the same seed and the same answers give the same suggestions.

    Raises MissingError without Optuna.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingError(
            'search: expected the package optuna, got nothing of that name; pip install "avcompress[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own = seed * 8 + tier  # tiers do not repeat each other's suggestions
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.TPESampler(seed=own, n_startup_trials=8)
        if kind == "tpe"
        else optuna.samplers.RandomSampler(seed=own)
    )
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    return Sampler(study, choices, tier)


def _suggest(trial: optuna.Trial, choice: Choice, tier: int) -> Value:
    if isinstance(choice, Options):
        return int(trial.suggest_categorical(choice.name, _affordable(choice.tiers, tier)))
    if choice.whole:
        return trial.suggest_int(choice.name, int(choice.low), int(choice.high), log=choice.log)
    return trial.suggest_float(choice.name, choice.low, choice.high, log=choice.log)


def _affordable(tiers: Sequence[int], tier: int) -> list[int]:
    """The numbers of the options no dearer than a tier, or else of the cheapest."""
    most = max(tier, min(tiers))
    return [number for number, each in enumerate(tiers) if each <= most]
