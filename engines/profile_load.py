"""From profile files to a Chosen: a mistake becomes one line that names the file, the line, the key and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from avcompress.frozen import Model
from avcompress.spec import RecipeError
from avcompress.yaml_file import Kind, Location, complaint, compose, depth_of, line_of, plain, spell
from engines.profile import Chosen, Dla, Platform, Profile
from engines.profile_check import complaints
from engines.profile_merge import merge

SHIPPED = Path(__file__).with_name("profiles")
_KIND = Kind("profile", "docs/targets.md")


@dataclass(frozen=True)
class _Document:
    """A file as it stands."""

    path: Path
    root: yaml.MappingNode
    data: Mapping[str, Any]


def load_profile(text: str, folders: Sequence[Path] = (), others: Sequence[str] = ()) -> Chosen:
    """A machine with its platform, by `orin-agx`, `orin-agx@jetpack-6.2`, `own.yaml` or `own.yaml@jetpack-6.2`.

    Args:
        text: a name is looked up in `folders`, then among the shipped profiles; without a platform, the first is taken.
        folders: with users' own profiles.
        others: names that the caller takes beside those of profiles, for the message.

    Raises RecipeError in one line: an unknown name with the nearest one, a mistake in a file with its line and key.
    """
    name, platform = _split(text)
    profile = _read(Path(name) if _is_path(name) else _locate(name, folders, others), folders)
    if platform is None:
        return Chosen(profile, profile.platforms[0])
    for each in profile.platforms:
        if each.name == platform:
            return Chosen(profile, each)
    names = [each.name for each in profile.platforms]
    raise RecipeError(f"{text}: expected a platform of {profile.name}, got {platform!r}; {_nearest(platform, names)}")


def profile_names(folders: Sequence[Path] = ()) -> tuple[str, ...]:
    """The names that `load_profile` knows, sorted; raises RecipeError for a folder that is none."""
    for folder in folders:
        if not folder.is_dir():
            raise RecipeError(
                f"--profiles: expected a folder of profiles, got nothing of that kind at {folder}; mend it"
            )
    return tuple(sorted({path.stem for folder in (*folders, SHIPPED) for path in folder.glob("*.yaml")}))


def all_profiles(folders: Sequence[Path] = ()) -> tuple[Profile, ...]:
    """Every profile that has a name, sorted by it."""
    return tuple(load_profile(name, folders).profile for name in profile_names(folders))


def _split(text: str) -> tuple[str, str | None]:
    """Name and platform; a path may hold an @ of its own."""
    if _is_path(text) or "@" not in text:
        return text, None
    name, _, platform = text.rpartition("@")
    return name, platform


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _locate(name: str, folders: Sequence[Path], others: Sequence[str] = ()) -> Path:
    known = profile_names(folders)
    if name not in known:
        raise RecipeError(f"target: expected a name or a YAML file, got {name!r}; {_nearest(name, (*others, *known))}")
    return next(path for folder in (*folders, SHIPPED) if (path := folder / f"{name}.yaml").exists())


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


# --- one profile


def _read(path: Path, folders: Sequence[Path]) -> Profile:
    chain = _chain(path, folders)
    data = _merged(chain)
    try:
        profile = Profile.model_validate({**data, "name": path.stem, "platforms": _listed(data, chain)})
    except ValidationError as error:
        platforms = [str(name) for name in data["platforms"]] if isinstance(data.get("platforms"), Mapping) else []
        details = error.errors(include_url=False)
        # A misspelt key shows as an unknown one and, where it is required, as a missing one: the unknown tells more.
        unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
        found = [_explain(detail, chain, platforms) for detail in unknown or details]
    else:
        found = [_contradiction(chain, place, message) for place, message in complaints(profile)]
        if not found:
            return profile
    # The user's own file first, then file order.
    _, _, message = min(found)
    more = f" ({len(found) - 1} more after this one)" if len(found) > 1 else ""
    raise RecipeError(f"{message}{more}")


def _merged(chain: Sequence[_Document]) -> Mapping[str, Any]:
    data: Mapping[str, Any] = {}
    try:
        for document in reversed(chain):
            data = merge(data, document.data)
    except RecursionError:
        raise RecipeError(f"{chain[0].path}: expected plain values, got an alias to itself; write it out") from None
    return data


def _chain(path: Path, folders: Sequence[Path]) -> tuple[_Document, ...]:
    """The file, the one that it extends, and so on."""
    chain: list[_Document] = []
    while True:
        root = compose(path, _KIND)
        document = _Document(path, root, plain(root, path))
        _forbid_names(document)
        if path.resolve() in [each.path.resolve() for each in chain]:
            raise _circle([*chain, document])
        chain.append(document)
        if "extends" not in document.data:
            return tuple(chain)
        path = _extended(document, folders)


def _extended(document: _Document, folders: Sequence[Path]) -> Path:
    name = document.data["extends"]
    where = f"{document.path}:{line_of(document.root, ('extends',))}: extends"
    if not isinstance(name, str):
        raise RecipeError(f"{where}: expected the name of a profile, got {name!r}; mend it")
    if _is_path(name):
        return document.path.parent / name
    try:
        return _locate(name, (document.path.parent, *folders))
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _circle(chain: Sequence[_Document]) -> RecipeError:
    names = " > ".join(each.path.stem for each in chain)
    first = chain[0]
    line = line_of(first.root, ("extends",))
    return RecipeError(f"{first.path}:{line}: extends: expected an end, got a circle, {names}; extend another profile")


def _forbid_names(document: _Document) -> None:
    """A profile is called as its file, a platform as its key: another name would be ignored."""
    platforms = document.data.get("platforms")
    inside = platforms.items() if isinstance(platforms, Mapping) else ()
    places: list[Location] = [("name",)] if "name" in document.data else []
    places += [
        ("platforms", str(key), "name") for key, value in inside if isinstance(value, Mapping) and "name" in value
    ]
    for place in places:
        line = line_of(document.root, place)
        whose = "the file" if len(place) == 1 else "the key above"
        raise RecipeError(f"{document.path}:{line}: {spell(place)}: unknown key; {whose} has the name, remove this one")


def _listed(data: Mapping[str, Any], chain: Sequence[_Document]) -> Any:
    """Platforms as Profile has them: a list, each with its name."""
    platforms = data.get("platforms", {})
    if not isinstance(platforms, Mapping):
        _, _, message = _spoken(
            chain, ("platforms",), "expected platforms by name, got no mapping; see docs/targets.md"
        )
        raise RecipeError(message)
    return [{**value, "name": str(name)} if isinstance(value, Mapping) else value for name, value in platforms.items()]


# --- messages


def _explain(detail: ErrorDetails, chain: Sequence[_Document], platforms: Sequence[str]) -> tuple[int, int, str]:
    place = _named(detail["loc"], platforms)
    if detail["type"] == "extra_forbidden":
        return _spoken(chain, place, f"unknown key; {_nearest(str(place[-1]), _keys_at(place[:-1]))}")
    if place[-1:] == ("[key]",):
        return _spoken(chain, place[:-1], complaint(detail))
    return _spoken(chain, place, complaint(detail))


def _named(loc: Location, platforms: Sequence[str]) -> Location:
    """A location of the model as one of the file: a platform by its name."""
    if loc[:1] == ("platforms",) and len(loc) > 1 and isinstance(loc[1], int):
        return ("platforms", platforms[loc[1]], *loc[2:])
    return loc


def _keys_at(place: Location) -> tuple[str, ...]:
    parts: dict[str, type[Model]] = {"platforms": Platform, "dla": Dla}
    model = parts.get(str(place[0]), Profile) if place else Profile
    fields = [name for name in model.model_fields if name != "name"]
    return tuple(fields if place else [*fields, "extends"])


def _spoken(chain: Sequence[_Document], place: Location, message: str) -> tuple[int, int, str]:
    """How far from the user's own file, the line, and the whole message: in the first file that has `place`."""
    index, line = _found(chain, place)
    return index, line, f"{chain[index].path}:{line}: {spell(place) or 'profile'}: {message}"


def _contradiction(chain: Sequence[_Document], place: Location, message: str) -> tuple[int, int, str]:
    """The same for what only the files together say: it is for the user's own file to mend."""
    index, line = _found(chain, place)
    if not index:
        return _spoken(chain, place, message)
    inherited = f"{chain[index].path.name}:{line}"
    return index, line, f"{chain[0].path}:1: {spell(place)}, inherited from {inherited}: {message}"


def _found(chain: Sequence[_Document], place: Location) -> tuple[int, int]:
    """The first file that has the whole of `place`, or else the user's own; and the line there."""
    whole = [index for index, document in enumerate(chain) if depth_of(document.root, place) == len(place)]
    index = whole[0] if whole else 0
    return index, line_of(chain[index].root, place)
