"""What was measured: how long each node and the whole network take at several widths, on one backend and machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avcompress.files import write_atomically
from avcompress.spec import DataError

VERSION = 1


@dataclass(frozen=True)
class Design:
    """One network of other widths, and its measured times.

    Attributes:
        removed: channels taken from each group, in the order of the table's groups.
        layers_ms: by node name, medians of runs with the runtime's profiler; what was fused into another has none.
        others_ms: what the runtime added, changes of layout and the like, all together.
        total_ms: of the whole network without a profiler, the tenth fastest of a hundred runs.
    """

    removed: tuple[int, ...]
    layers_ms: Mapping[str, float]
    others_ms: float
    total_ms: float


@dataclass(frozen=True)
class LatencyTable:
    """The designs of one network; the first one is the network as it is.

    Attributes:
        network: sha256 of its structure; a table of another network is refused.
        groups: names, and how many channels each has.
        backend, machine, versions: what it was measured on.
    """

    network: str
    groups: tuple[tuple[str, int], ...]
    backend: str
    machine: str
    versions: Mapping[str, str]
    designs: tuple[Design, ...]


def save_table(table: LatencyTable, path: Path) -> None:
    """Write a table as JSON, whole or not at all."""
    facts = {
        "version": VERSION,
        "network": table.network,
        "groups": [list(group) for group in table.groups],
        "backend": table.backend,
        "machine": table.machine,
        "versions": dict(table.versions),
        "designs": [
            {"removed": d.removed, "layers_ms": dict(d.layers_ms), "others_ms": d.others_ms, "total_ms": d.total_ms}
            for d in table.designs
        ],
    }
    write_atomically(path, json.dumps(facts, indent=1))


def load_table(path: Path, network: str) -> LatencyTable:
    """Read what save_table wrote for a network of this structure; raises DataError for anything else."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise ValueError(f"version {facts['version']}")
        table = LatencyTable(
            network=str(facts["network"]),
            groups=tuple((str(name), int(size)) for name, size in facts["groups"]),
            backend=str(facts["backend"]),
            machine=str(facts["machine"]),
            versions={str(k): str(v) for k, v in facts["versions"].items()},
            designs=tuple(_design(d) for d in facts["designs"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected a latency table of version {VERSION}, got something else ({error}); measure it again"
        ) from error
    if table.network != network:
        raise DataError(
            f"{path}: expected a latency table of this network ({network[:12]}), got one of another "
            f"({table.network[:12]}); measure it again"
        )
    return table


def _design(facts: Mapping[str, Any]) -> Design:
    return Design(
        removed=tuple(int(n) for n in facts["removed"]),
        layers_ms={str(name): float(ms) for name, ms in facts["layers_ms"].items()},
        others_ms=float(facts["others_ms"]),
        total_ms=float(facts["total_ms"]),
    )
