"""The state of a training, and its checkpoints: one file of tensors and JSON, whole or not at all, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from avcompress import ranks
from avcompress.files import write_atomically
from avcompress.recipe_training import Training
from avcompress.spec import ModelError

FILE = "checkpoint.safetensors"
_FORMAT = 1
_ASIDE = frozenset({"keep_every", "log", "hold_mb"})
"""Settings that a training may be gone on with under other values."""
_METADATA = "avcompress"
_SETTINGS, _START = "settings", "start"


@dataclass
class Best:
    """The best network that was measured: its metric, its state, and how many measurements ago it was."""

    metric: float
    state: Mapping[str, Tensor]
    waited: int = 0


@dataclass
class Progress:
    """All that a step changes.

    Attributes:
        module: what is trained.
        averaged: the moving average of its state, in eval mode.
        optimizer, scaler: with their own state; the scaler only for fp16.
        step: how many are done.
        tail: the last losses.
        best: of the measurements so far.
    """

    module: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    tail: list[float] = field(default_factory=list)
    best: Best | None = None


@dataclass(frozen=True)
class Store:
    """Where the checkpoint of one training lies, and what that training is besides its module and settings.

    `belongs`: by what people call it, such as {"data": fingerprint}, values that JSON has; a checkpoint of anything
    else is refused.
    """

    folder: Path
    belongs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return self.folder / FILE


def identity(module: nn.Module, settings: Training, store: Store) -> dict[str, Any]:
    """What a checkpoint has to belong to, before anything is trained."""
    parts = [type(module).__name__, [(n, tuple(v.shape), str(v.dtype)) for n, v in module.state_dict().items()]]
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return {
        "format": _FORMAT,
        "network": hashlib.sha256(json.dumps([parts, trained]).encode()).hexdigest(),
        _START: _digest(module.state_dict()),
        _SETTINGS: settings.model_dump(mode="json", exclude=set(_ASIDE)),
        **store.belongs,
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save(progress: Progress, store: Store, belongs: Mapping[str, Any]) -> None:
    """Write the checkpoint in the place of the last one; raises OutputError."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in _tensors(progress).items()}
    facts = {
        "belongs": belongs,
        "step": progress.step,
        "tail": progress.tail,
        "scaler": progress.scaler.state_dict(),
        "best": None if progress.best is None else [progress.best.metric, progress.best.waited],
        "sha256": _digest(tensors),
    }
    content = safetensors.torch.save(tensors, {_METADATA: json.dumps(facts)})
    write_atomically(store.path, bytes(content))


def _tensors(progress: Progress) -> dict[str, Tensor]:
    found = {"random": torch.get_rng_state()}
    if next(progress.module.parameters()).is_cuda:
        found["random.cuda"] = torch.cuda.get_rng_state()
    parts: list[tuple[str, Mapping[str, Tensor]]] = [
        ("module", progress.module.state_dict()),
        ("averaged", progress.averaged.state_dict()),
        ("best", progress.best.state if progress.best else {}),
    ]
    found.update({f"{part}.{name}": value for part, state in parts for name, value in state.items()})
    for name, parameter in progress.module.named_parameters():
        state = progress.optimizer.state.get(parameter, {})
        found.update({f"optimizer.{key}.{name}": value for key, value in state.items() if value is not None})
    return found


def restore_(progress: Progress, store: Store, belongs: Mapping[str, Any]) -> None:
    """Go on from the checkpoint if there is one; raises ModelError when it is damaged, or of another training."""
    if not store.path.exists():
        return
    tensors, facts = _read(store.path)
    _refuse_other(facts["belongs"], belongs, store)
    progress.module.load_state_dict(_part(tensors, "module."))
    progress.averaged.load_state_dict(_part(tensors, "averaged."))
    for name, parameter in progress.module.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
            value = tensors.get(f"optimizer.{key}.{name}")
            if value is not None:
                # AdamW counts steps on the CPU, wherever the parameter is.
                progress.optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    if facts["scaler"]:
        progress.scaler.load_state_dict(facts["scaler"])
    progress.step, progress.tail = facts["step"], facts["tail"]
    if facts["best"] is not None:
        metric, waited = facts["best"]
        progress.best = Best(metric, _part(tensors, "best."), waited)
    torch.set_rng_state(tensors["random"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(_METADATA, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        whole = facts is not None and facts["sha256"] == _digest(tensors)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not whole:
        raise _damaged(path, "other content than its hash tells")
    return tensors, facts


def _damaged(path: Path, got: str) -> ModelError:
    return ModelError(f"{path}: expected a whole checkpoint, got {got[:160]}; remove it, or start without --resume")


def _refuse_other(theirs: Mapping[str, Any], ours: Mapping[str, Any], store: Store) -> None:
    for part in dict.fromkeys((*ours, *theirs)):
        old, new = theirs.get(part), ours.get(part)
        if old != new:
            raise ModelError(
                f"{store.path}: expected a checkpoint of this training, got {_difference(part, old, new)}; undo the "
                f"change, or delete the folder {store.folder} to train anew"
            )


def _difference(part: str, old: Any, new: Any) -> str:
    """What another training's checkpoint is of, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        return f"one with {_first_change('' if part == _SETTINGS else part, old, new)}"
    if part == _START:
        return "one that started from other weights or scales: the network or a stage before has changed"
    return f"one of another {part}"


def _first_change(name: str, old: Any, new: Any) -> str:
    """What a value is instead of what, as deep inside as only one thing differs."""
    match old, new:
        case dict(), dict():
            key = next(key for key in dict.fromkeys((*new, *old)) if old.get(key) != new.get(key))
            return _first_change(f"{name}.{key}".removeprefix("."), old.get(key), new.get(key))
        case list(), list() if len(old) == len(new) and all(isinstance(each, dict) for each in (*old, *new)):
            index = next(index for index in range(len(old)) if old[index] != new[index])
            return _first_change(f"{name}[{index}]", old[index], new[index])
        case _:
            return f"{name} {old} instead of {new}"


def all_finite(progress: Progress) -> bool:
    """Whether the module is worth keeping."""
    return all(bool(torch.isfinite(p).all()) for p in progress.module.parameters())


def keep_(progress: Progress, store: Store, belongs: Mapping[str, Any]) -> None:
    """Write the checkpoint by the leading process."""
    if ranks.leads():
        save(progress, store, belongs)
