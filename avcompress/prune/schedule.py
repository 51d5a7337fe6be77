"""How much is pruned when: at once, in rounds with training between them, or step by step while the network trains.

Source: the cubic rise: Zhu and Gupta: To prune, or not to prune, arXiv:1710.01878, equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from avcompress.spec import RecipeError


def rounds(ratio: float, count: int) -> tuple[float, ...]:
    """What is removed by the end of each round, as shares of the whole; the last one is `ratio`.

    Every round removes the same share of what the one before has left: ratio .5 in two rounds is .29, then .5.
    One round is pruning at once.
    """
    if count < 1 or not 0 <= ratio < 1:
        raise RecipeError(
            f"prune.rounds: expected 1 or more, and 0 <= ratio < 1, got {count} and {ratio}; mend one of them"
        )
    return (*(1 - (1 - ratio) ** (done / count) for done in range(1, count)), ratio)


@dataclass(frozen=True)
class Rise:
    """How the share that is removed grows during a training.

    Attributes:
        start, end: steps done, between which it grows; from `end` on it is `final`.
        final: the share at the end.
        initial: the share at the start.
        every: steps between two removals; the last one is at `end` in any case.
    """

    start: int
    end: int
    final: float
    initial: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end or self.every < 1:
            raise RecipeError(
                f"prune.schedule: expected 0 <= start <= end, and every >= 1, got {self.start}, {self.end} and "
                f"{self.every}; give steps of the training"
            )
        if not 0 <= self.initial <= self.final < 1:
            raise RecipeError(
                f"prune.schedule: expected 0 <= initial <= final < 1, got {self.initial} and {self.final}; give shares "
                "to remove"
            )

    def at(self, done: int) -> float:
        """The share that is removed when so many steps are done."""
        if done < self.start:
            return 0.0
        if done >= self.end:
            return self.final
        progress = (done - self.start) / (self.end - self.start)
        return self.final + (self.initial - self.final) * (1 - progress) ** 3

    def is_due(self, done: int) -> bool:
        """Whether something is removed after so many steps."""
        return (self.start <= done < self.end and (done - self.start) % self.every == 0) or done == self.end
