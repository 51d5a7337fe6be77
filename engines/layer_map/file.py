"""The layer map as a file, layers.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avcompress.spec import EngineError
from engines.layer_map.counts import Counts
from engines.layer_map.layer import BuilderLayer


def layers_json(layers: Sequence[BuilderLayer], precisions: Mapping[str, str], counts: Counts | None = None) -> str:
    """What each weighted node runs in, the layers counted, and the engine's own layers, as JSON text."""
    counted = {"counts": asdict(counts)} if counts is not None else {}
    content = {"precisions": dict(precisions), **counted, "layers": [asdict(layer) for layer in layers]}
    return json.dumps(content, indent=1) + "\n"


def read_counts(path: Path) -> Counts | None:
    """The counts of a layer map; None where the backend wrote none. Raises EngineError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("counts")
        return Counts(**found) if found is not None else None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"{path}: expected a layer map, got: {error}; build the engine again") from error


def read_layers(path: Path) -> tuple[BuilderLayer, ...]:
    """The engine's own layers in a layer map; raises EngineError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["layers"]
        return tuple(_layer(layer) for layer in found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path}: expected a layer map, got: {error}; build the engine again") from error


def _layer(facts: Mapping[str, Any]) -> BuilderLayer:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return BuilderLayer(**values)
