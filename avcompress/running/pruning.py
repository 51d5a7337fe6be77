"""The stage `prune`: which channels go, and the network without them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from avcompress.recipe_prune import Prune
from avcompress.running.choosing import Chooser, channel_scores, concerned
from avcompress.spec import Artifact, Track
from engines.onnx_graph import macs

if TYPE_CHECKING:
    from avcompress.prune import Coupling, Removed


def prune(chooser: Chooser, stage: Prune, part: int, artifact: Artifact, track: Track) -> Artifact:
    """The artifact of the network without the channels that go in one part of a stage, counted from 1.

    `stage` has its alignment.

    Raises RecipeError for a ratio or an alignment that the layers cannot have, ModelError for a network whose channels
    cannot be told apart.
    """
    from avcompress.prune import channel_groups, without

    network: onnx.ModelProto = artifact.model
    coupling = channel_groups(network)
    removed = _chosen(chooser.watched(track), stage, network, coupling, part)
    pruned = without(network, coupling, removed)
    return replace(artifact, model=pruned, log=(*artifact.log, _line(network, pruned, coupling, removed)))


def _chosen(chooser: Chooser, stage: Prune, network: onnx.ModelProto, coupling: Coupling, part: int) -> Removed:
    from avcompress.prune.schedule import of_the_rest, rounds
    from avcompress.prune.selection import Selection, select

    free = concerned(coupling, stage, chooser.where)
    scores = channel_scores(chooser, stage, network, free)
    shares = (0.0, *rounds(stage.ratio or 0.0, stage.parts))
    rule = Selection(
        ratio=of_the_rest(shares[part - 1], shares[part]),
        scope=stage.scope,
        alignment=stage.alignment or 1,
        floor=stage.floor,
    )
    return select(free, scores, rule)


def _line(before: onnx.ModelProto, after: onnx.ModelProto, coupling: Coupling, removed: Removed) -> str:
    """One line: how many channels, multiplications and parameters are left."""
    channels = sum(len(group.channels) for group in coupling.groups)
    gone = sum(map(len, removed.values()))
    parts = [
        f"{channels - gone} of {channels} channels that can go",
        *(f"{of(after):,} of {of(before):,} {what}" for what, of in (("MACs", count_macs), ("parameters", parameters))),
    ]
    return f"prune: keeps {', '.join(parts)}"


def count_macs(network: onnx.ModelProto) -> int:
    """Multiply-accumulates of one image."""
    return sum(macs(network).values())


def parameters(network: onnx.ModelProto) -> int:
    """Values in floating-point constants."""
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
    sizes = [item.dims for item in network.graph.initializer if item.data_type in floats]
    return sum(int(np.prod(dims, dtype=np.int64)) for dims in sizes)
