"""What rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import onnx

Allowed = Callable[[str], bool]
"""Whether the node of this name may be rewritten."""
Clock = Callable[[Sequence[onnx.ModelProto]], Sequence[float]]
"""Milliseconds that one run of each network takes, of all of them measured together."""


class Change(NamedTuple):
    """What a rule makes of a network.

    Attributes:
        network: the same one where no node is rewritten.
        nodes: names of those that are.
    """

    network: onnx.ModelProto
    nodes: tuple[str, ...]


Rule = Callable[[onnx.ModelProto, Allowed], Change]
"""Of a float network whose nodes have names, whose shapes are stated and whose constants are folded."""
