"""A recipe with choices: read, checked in every option before the work, and made an ordinary recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from avcompress.recipe import Recipe
from avcompress.recipe_load import check_node
from avcompress.recipe_search import Search
from avcompress.search.trials.choices import Choice, ChoiceError, Options, Suggestion, Value, choices_in, resolved
from avcompress.search.trials.tiers import cost_of, tier_of
from avcompress.spec import RecipeError
from avcompress.yaml_file import Kind, compose

SECTION = "search"
PLACES = ("stages", "model", "data.calibration", "data.train")
"""Where choices may be: what a network is made of and how, never what it is held to."""


@dataclass(frozen=True, eq=False)
class Space:
    """What may be tried.

    Attributes:
        path: of the file.
        root: its tree without the section `search`.
        settings: that section.
        choices: in the order of the file.
    """

    path: Path
    root: yaml.MappingNode
    settings: Search
    choices: tuple[Choice, ...]

    def recipe(self, suggestion: Suggestion) -> Recipe:
        """The recipe with these values; raises RecipeError with file and line where they do not go together."""
        return check_node(_mapping(resolved(self.root, suggestion)), self.path, Recipe)


def load_space(path: Path) -> Space:
    """Read a recipe with choices and a section `search`.

    Raises RecipeError, with file and line, for a mistake in any option, and where there is nothing to choose.
    """
    whole = compose(path, Kind("recipe", "docs/search.md"))
    sections = {str(key.value): value for key, value in whole.value}
    if SECTION not in sections:
        raise RecipeError(f"{path}: {SECTION}: expected this section, got nothing; add it: see docs/search.md")
    if not isinstance(sections[SECTION], yaml.MappingNode):
        line = sections[SECTION].start_mark.line + 1
        raise RecipeError(f"{path}:{line}: {SECTION}: expected a mapping of keys, got something else; mend it")
    settings = check_node(sections[SECTION], path, Search)
    pairs = [(key, value) for key, value in whole.value if key.value != SECTION]
    root = yaml.MappingNode(whole.tag, pairs, whole.start_mark, whole.end_mark)
    space = Space(path, root, settings, _choices(root, path))
    for suggestion in _each_option(space.choices):
        space.recipe(suggestion)
    return replace(space, choices=_with_tiers(space))


def _mapping(node: yaml.Node) -> yaml.MappingNode:
    if not isinstance(node, yaml.MappingNode):
        raise TypeError("expected a mapping at the top of a recipe")
    return node


def _choices(root: yaml.MappingNode, path: Path) -> tuple[Choice, ...]:
    try:
        choices = tuple(choices_in(root))
    except ChoiceError as error:
        raise RecipeError(f"{path}:{error.line}: {error}") from None
    for choice in choices:
        if not choice.name.startswith(PLACES):
            raise RecipeError(
                f"{path}:{choice.line}: {choice.name}: expected choices in {', '.join(PLACES)}, got one here; write "
                "one value"
            )
    if not choices:
        raise RecipeError(
            f"{path}: expected something to choose, {{choose: [a, b]}} or {{between: [low, high]}} in the place of a "
            "value, got nothing; add it, or use `avcompress run`"
        )
    return choices


def _each_option(choices: tuple[Choice, ...]) -> Iterator[Suggestion]:
    """Suggestions that lead to every option and to both ends of every range."""
    for choice in choices:
        values = range(len(choice.tiers)) if isinstance(choice, Options) else (choice.low, choice.high)
        for value in values:
            yield {**dict(choice.given), choice.name: value}


def _with_tiers(space: Space) -> tuple[Choice, ...]:
    """The choices, each option with the tier of the cheapest recipe that has it.

    What an option costs is known from the recipes that have it, wherever it stands: at a stage, its kind, what it
    trains by. Choices within an option come behind it, so from the last to the first each one meets cheap ones alone.
    """
    cheap: dict[str, Value] = {}
    for choice in reversed(space.choices):
        if isinstance(choice, Options):
            costs = [cost_of(recipe) for recipe in _with_each(space, choice, cheap)]
            cheap[choice.name] = costs.index(min(costs))
    return tuple(
        replace(choice, tiers=tuple(map(tier_of, _with_each(space, choice, cheap))))
        if isinstance(choice, Options)
        else choice
        for choice in space.choices
    )


def _with_each(space: Space, choice: Options, others: Suggestion) -> Iterator[Recipe]:
    """A recipe with each option of a choice; the others at their first options where those do not go with it."""
    for option in range(len(choice.tiers)):
        own = {**dict(choice.given), choice.name: option}
        try:
            yield space.recipe({**others, **own})
        except RecipeError:
            yield space.recipe(own)
