"""How much a peer that knows no latency has to prune, so that its network takes as long as another one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

SLOWER = 1.02
"""What the peer's network may take, in parts of ours: where they cannot be equal, the peer is to gain by it."""
NOISE = 0.02
"""What a short measurement may be off, in parts of ours."""


class Try(NamedTuple):
    """A network: the share of channels asked to go, what it takes in parts of ours, and what stands for its widths."""

    ratio: float
    takes: float
    widths: str


def tried(measure: Callable[[float], Try], tries: int, most: float) -> list[Try]:
    """Networks ever closer to as slow as allowed: bisection over the ratio, from 0 to `most`.

    It ends early with one between equal and as slow as allowed, or where both ends give the same widths.
    """
    low, high, known = 0.0, most, dict[float, Try]()
    for _ in range(tries):
        ratio = (low + high) / 2
        known[ratio] = measure(ratio)
        if 1 <= known[ratio].takes <= SLOWER:
            break
        low, high = (ratio, high) if known[ratio].takes > SLOWER else (low, ratio)
        if low in known and high in known and known[low].widths == known[high].widths:
            break
    return list(known.values())


def slowest_first(tries: Sequence[Try]) -> list[Try]:
    """Those that may be no slower than allowed when measured again, the one that has lost least first.

    Raises ValueError without any.
    """
    near = sorted((each for each in tries if each.takes <= SLOWER + NOISE), key=lambda each: -each.takes)
    if not near:
        fastest = min(each.takes for each in tries)
        raise ValueError(f"expected a network that takes at most {SLOWER:g} of ours, got {fastest:.3f} for the fastest")
    return near
