"""What no key alone shows to be wrong of a choice of precisions, found before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from avcompress.recipe import Ptq, Recipe, Repairing
from avcompress.recipe_mixed import Mixed
from avcompress.recipe_qat import Qat
from avcompress.running.targeting import offered
from avcompress.search.on_target import precisions_on
from avcompress.spec import Precision, RecipeError
from avcompress.trial import metric_names
from engines.profile_load import load_profile


def check_choices(recipe: Recipe) -> None:
    """A choice is among what its machine computes in, and of what the stages after it take; raises RecipeError."""
    for index, stage, mixed in _choices(recipe):
        where = f"stages[{index}].mixed"
        later = [each.kind for each in recipe.stages[index + 1 :] if isinstance(each, Repairing | Qat)]
        if later and "int8 weights" in (mixed.formats or ()):
            raise RecipeError(
                f"{where}.formats: expected int8 or fp8 before `{later[0]}`, got int8 weights, on which it has nothing "
                "to do; leave one of the two out"
            )
        if mixed.machine is not None:
            _check_machine(f"{where}.machine", mixed.machine, offered(recipe, stage))


def check_cluster(recipe: Recipe, address: str | None) -> None:
    """A cluster is given only where there is work for it; raises RecipeError."""
    if address is not None and all(mixed.sensitivity == "metric" for _, _, mixed in _choices(recipe)):
        raise RecipeError(
            "--ray: expected a recipe with `ptq` and mixed, whose sensitivity is no metric, got none: nothing else of "
            "a run is done on a cluster; leave --ray out"
        )


def check_floors(recipe: Recipe, classes: tuple[str, ...]) -> None:
    """Every floor that a choice is held to is of a metric that is measured; raises RecipeError."""
    known = metric_names(recipe.task, classes)
    for index, _, mixed in _choices(recipe):
        if mixed.metric is not None and mixed.metric not in known:
            close = get_close_matches(mixed.metric, known, 3, 0.0)
            raise RecipeError(
                f"stages[{index}].mixed.metric: expected one of {len(known)} metrics, got {mixed.metric!r}; "
                f"the nearest are {', '.join(close)}"
            )


def _choices(recipe: Recipe) -> Iterator[tuple[int, Ptq, Mixed]]:
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, Ptq) and stage.mixed is not None:
            yield index, stage, stage.mixed


def _check_machine(where: str, name: str, wanted: Sequence[Precision]) -> None:
    try:
        machine = load_profile(name)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    # Weights alone are computed in what float there is; of all else the estimate needs the rate.
    able = [each for each in precisions_on(machine) if each == "int8 weights" or each in machine.profile.peak]
    missing = [each for each in wanted if each not in able]
    if missing:
        raise RecipeError(
            f"{where}: expected one whose rate in {missing[0]} is known, of {machine.name} it is in {', '.join(able)}; "
            "name another machine, or measure times"
        )
