"""A user's torch network: import the factory that the recipe names, build the module, load its weights.

torch is imported when a network is loaded, not with this file: without it the user gets the command that installs it.
"""

from __future__ import annotations

import collections
import contextlib
import difflib
import importlib
import inspect
import pickle
import pickletools
import re
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from avcompress.recipe_network import TorchModel
from avcompress.spec import AvcompressError, MissingError, ModelError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

NESTED_UNDER = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning
SHOWN = 3
SEED = 0
LEGACY_PICKLES = 5  # magic number, protocol, system, content, storage keys; raw numbers follow


def load_torch(settings: TorchModel, data_root: Path, recipe_folder: Path) -> nn.Module:
    """Build the module that the recipe names, with its weights, on the CPU and in eval mode.

    `settings.import_from` is relative to `recipe_folder`, `settings.weights` to `data_root`.
    Raises RecipeError for a wrong factory, folder or argument, ModelError for code that fails or weights that do not
    fit, MissingError where a package is not installed.
    """
    _require_torch()
    folder = recipe_folder / settings.import_from if settings.import_from else None
    if folder is not None and not folder.is_dir():
        raise RecipeError(
            f"model.import_from: expected a folder, got nothing at {folder}; give it relative to the recipe's folder"
        )
    with _importable_from(folder, settings.factory):
        module = _build(_find_factory(settings.factory, folder, recipe_folder), settings)
    if settings.weights is not None:
        path = data_root / settings.weights
        _load_(module, _read_state(path), path)
    _check_finite(module, settings)
    return module.cpu().eval()


def load_function(name: str, folder: Path | None, recipe_folder: Path, label: str) -> Callable[..., Any]:
    """A user's function, module:function, imported from a folder or from the installed packages.

    Raises RecipeError, ModelError or MissingError; `label` is the recipe's key.
    """
    try:
        with _importable_from(folder, name):
            return _find_factory(name, folder, recipe_folder)
    except AvcompressError as error:
        raise type(error)(str(error).replace("model.factory", label)) from error


def _require_torch() -> None:
    try:
        importlib.import_module("torch")
    except ModuleNotFoundError:
        raise MissingError(
            'model.factory: expected torch, got none installed; pip install "avcompress[train]", or give `model.onnx`'
        ) from None


# --- the user's code


@contextlib.contextmanager
def _importable_from(folder: Path | None, factory: str) -> Iterator[None]:
    """Put `folder` first on sys.path; a module of the same name that came from elsewhere makes room."""
    if folder is None:
        yield
        return
    place = str(folder.resolve())
    top = re.split(r"[.:]", factory, maxsplit=1)[0]
    if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
        _forget_unless_from(place, top)
    before = sys.path.copy()
    sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _forget_unless_from(place: str, top: str) -> None:
    loaded = sys.modules.get(top)
    source = getattr(loaded, "__file__", None) if loaded else None
    if loaded is None or (source and str(Path(source).resolve()).startswith(place)):
        return
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        del sys.modules[name]


def _find_factory(factory: str, folder: Path | None, recipe_folder: Path) -> Callable[..., Any]:
    module_name, function_name = factory.split(":")
    module = _import(module_name, folder, recipe_folder)
    function = getattr(module, function_name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    problem = "none of that name" if function is None else f"a {type(function).__name__}"
    raise RecipeError(
        f"model.factory: expected a function '{function_name}' in {module.__file__ or module_name}, got {problem}"
        f"{_hint(function_name, names)}"
    )


def _import(name: str, folder: Path | None, recipe_folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise MissingError(
                f"{_place(error)}: expected the module '{error.name}', got none installed; "
                "install the package that provides it"
            ) from error
        looked = f"in {folder.resolve()} and among the installed packages" if folder else "among the installed packages"
        near = [path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()] if folder else []
        top = name.partition(".")[0]
        beside = any(path.stem == top for path in recipe_folder.iterdir())
        where = "`import_from: .`, it lies beside the recipe" if beside else "`import_from` to the folder that holds it"
        advice = "" if folder else f"; set {where}"
        raise RecipeError(
            f"model.factory: expected a module '{error.name}', got none {looked}{_hint(error.name, near)}{advice}"
        ) from None
    except SyntaxError as error:
        raise ModelError(f"{error.filename}:{error.lineno}: expected Python, got {error.msg}; mend the line") from error
    except (Exception, SystemExit) as error:
        relative = "relative import" in str(error)
        advice = "; set `import_from` to the folder above the package, and name it in `factory`" if relative else ""
        raise ModelError(f"{_place(error)}: expected '{name}' to import, got {_short(error)}{advice}") from error


def _build(function: Callable[..., Any], settings: TorchModel) -> nn.Module:
    import torch
    from torch import nn

    _check_args(function, settings)
    try:
        # Without `weights` the initial ones are drawn: the same each time, so that a run can be repeated and resumed.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            module = function(**settings.args)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{_place(error)}: expected {settings.factory} to build a module, got {_short(error)}; mend model.args, or "
            "the function"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{settings.factory}: expected it to return a torch.nn.Module, got a {type(module).__name__}; "
            "return the module"
        )
    return module


def _check_args(function: Callable[..., Any], settings: TorchModel) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature: its own message must do
        return
    try:
        signature.bind(**settings.args)
    except TypeError as error:
        raise RecipeError(
            f"model.args: expected what {settings.factory} takes, {signature}, got {settings.args}: {error}"
        ) from None


def _place(error: BaseException) -> str:
    """`file:line` of the frame that the user can mend: the last one that is neither ours nor in a package."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    own = [frame for frame in frames if frame.filename != __file__ and "site-packages" not in frame.filename]
    users = [frame for frame in own if frame.filename not in (importlib.__file__, inspect.__file__)]
    best = users or frames
    return f"{best[-1].filename}:{best[-1].lineno}" if best else "model.factory"


def _short(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _hint(name: str, candidates: list[str]) -> str:
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


# --- the weights


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: expected the network's weights, got no file; model.weights is relative to the data")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return _tensors(content, path)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        message = f'{path}: expected safetensors to read it, got none installed; pip install "avcompress[train]"'
        raise MissingError(message) from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|unrecognized function) (\S+)", str(error))
        if refused is None or _is_cut(path):
            raise _damaged(path, error) from error
        raise ModelError(
            f"{path}: expected tensors only, got a pickle that calls {refused[1]} when loaded, which can run any code; "
            "where you trust its author, convert it once: "
            "torch.save(torch.load(OLD, weights_only=False).state_dict(), NEW)"
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, IndexError ... on what is not a checkpoint
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path}: expected a state dict, got a TorchScript archive; save `module.state_dict()` instead"
            ) from error
        raise _damaged(path, error) from error


def _is_cut(path: Path) -> bool:
    """Whether a file of pickles, as torch wrote before its zip archives, ends within one: its names may be cut, too."""
    if zipfile.is_zipfile(path):
        return False
    with path.open("rb") as file:
        try:
            for _ in range(LEGACY_PICKLES):
                if not file.peek(1):
                    return False
                collections.deque(pickletools.genops(file), maxlen=0)
        except ValueError:
            return True
    return False


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = _short(error).partition(". ")[0][:160]
    return ModelError(
        f"{path}: expected a whole .pth or .safetensors file, got a damaged one ({reason}); fetch or save it again"
    )


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping from names to tensors, out of the training checkpoint around it."""
    from torch import Tensor

    while isinstance(content, Mapping) and (keys := _nested(content)):
        content = content[keys[0]]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: expected a state dict, got a {type(content).__name__}; save `module.state_dict()`")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path}: expected names and tensors, got a {type(value).__name__} at {name!r}; "
                f"save `module.state_dict()` alone, or under one of {', '.join(NESTED_UNDER)}"
            )
    return dict(content)


def _nested(content: Mapping[Any, Any]) -> list[str]:
    """The keys under which a state dict may lie: the usual names, or else the only mapping of tensors."""
    from torch import Tensor

    usual = [key for key in NESTED_UNDER if _is_mapping(content, key)]
    states = [
        key
        for key, value in content.items()
        if isinstance(value, Mapping) and value and all(isinstance(part, Tensor) for part in value.values())
    ]
    return usual or (states if len(states) == 1 else [])


def _is_mapping(content: Mapping[Any, Any], key: str) -> bool:
    return isinstance(content.get(key), Mapping)


def _load_(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    state = _without_prefix(state, own)
    shapes = {
        name: f"{tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    }
    fitting = {name: value for name, value in state.items() if name not in shapes}
    keys = module.load_state_dict(fitting, strict=False)
    problems = [
        _count("missing", [name for name in keys.missing_keys if name not in shapes]),
        _count("unexpected", list(keys.unexpected_keys)),
        _count("of another shape", [f"{name} {text}" for name, text in shapes.items()]),
    ]
    if any(problems):
        raise ModelError(
            f"{path}: expected weights of the {type(module).__name__} that the factory built ({len(own)} tensors), "
            f"got {len(state)} tensors: {', '.join(filter(None, problems))}; give its own weights, or mend model.args"
        )


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove what a wrapper put before every name, unless the module's own names begin with it."""
    for prefix in PREFIXES:
        wrapped = all(name.startswith(prefix) for name in state)
        if wrapped and not any(name.startswith(prefix) for name in own):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _count(what: str, names: list[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})" if names else ""


def _check_finite(module: nn.Module, settings: TorchModel) -> None:
    import torch

    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise ModelError(
                f"{settings.weights or settings.factory}: expected finite weights, got {bad} NaN or infinite of "
                f"{value.numel()} in '{name}'; train it again, or take an earlier checkpoint"
            )
