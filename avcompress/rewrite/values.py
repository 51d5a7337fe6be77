"""What rules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import onnx

Allowed = Callable[[str], bool]
"""Whether the node of this name may be rewritten."""


class Change(NamedTuple):
    """What a rule makes of a network.

    Attributes:
        network: the same one where no node is rewritten.
        nodes: names of those that are.
        factors: by tensor, what it has been multiplied by, the layers around making up for it; of others 1.
    """

    network: onnx.ModelProto
    nodes: tuple[str, ...]
    factors: Mapping[str, float] = MappingProxyType({})


Rule = Callable[[onnx.ModelProto, Allowed], Change]
"""Of a float network whose nodes have names, whose shapes are stated and whose constants are folded."""
