"""What factorization has decided, layer by layer, and the network that came of it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from avcompress.lowrank.candidates import Candidate
from avcompress.lowrank.forms import Ranks
from avcompress.lowrank.layers import Left
from avcompress.recipe_lowrank import Method


@dataclass(frozen=True, eq=False)
class Choice:
    """One way to take a layer apart that was measured to be faster.

    Attributes:
        candidate: the way.
        ms_before, ms_after: of the layer alone, as it was and as its factors.
    """

    candidate: Candidate
    ms_before: float
    ms_after: float

    @property
    def layer(self) -> str:
        """The layer's name."""
        return self.candidate.into.layer.name

    @property
    def saved_ms(self) -> float:
        """Of the layer alone."""
        return self.ms_before - self.ms_after


@dataclass(frozen=True)
class Decomposition:
    """A layer that was taken apart.

    Attributes:
        layer: name of the node that is now NAME/first ... NAME/last.
        method, ranks: by which; those of tucker2 of inputs and outputs.
        macs_before, macs_after: multiply-accumulates.
        error: share of the variance of its output that was lost, before any training.
        ms_before, ms_after: measured, of the layer alone.
    """

    layer: str
    method: Method
    ranks: Ranks
    macs_before: int
    macs_after: int
    error: float
    ms_before: float
    ms_after: float


@dataclass(frozen=True, eq=False)
class Factorized:
    """A network after factorization.

    Attributes:
        network: with factors in the place of layers; the given one itself where no layer gains.
        decompositions: the layers that were taken apart, in graph order.
        left: the others, and why.
        ms_before, ms_after: of the whole network, measured in turns; the same where no layer gains.
        log: one line for each thing done, for people.
    """

    network: onnx.ModelProto
    decompositions: tuple[Decomposition, ...]
    left: tuple[Left, ...]
    ms_before: float
    ms_after: float
    log: tuple[str, ...]


def decomposition(choice: Choice) -> Decomposition:
    """A choice as plain values."""
    into = choice.candidate.into
    return Decomposition(
        layer=choice.layer,
        method=into.method,
        ranks=into.ranks,
        macs_before=into.layer.macs,
        macs_after=choice.candidate.macs,
        error=choice.candidate.error,
        ms_before=choice.ms_before,
        ms_after=choice.ms_after,
    )
