"""What a group loses at the network's outputs, and what the metric loses: by running the network with it changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx

from avcompress.recipe import Task
from avcompress.search.formats import Formats
from avcompress.search.groups import Group
from avcompress.search.sensitivity.shots import Shots
from avcompress.search.sensitivity.threads import one_thread
from avcompress.spec import Precision
from engines.in_memory import open_model

Score = Callable[[onnx.ModelProto], float]
"""The metric of a network; higher is better. It is pickled where several processes measure."""
Case = tuple[Group, Precision]
"""A group and the precision that it alone is in."""


@dataclass(frozen=True, eq=False)
class OutputError:
    """The squared movement of the answers, the mean over images, in the units of `distill.movement`.

    Attributes:
        formats: the networks.
        shots: the images, and what the float network says to them.
        task: whose units; None: every output by its deviation.
        size: height and width of the network's input.
    """

    formats: Formats
    shots: Shots
    task: Task | None
    size: tuple[int, int]

    def __call__(self, case: Case) -> float:
        """Of one group in one precision."""
        import torch

        from avcompress.distill.movement import movement, moves_of

        moves = moves_of(self.task, self.size)
        total = 0.0
        # Graph optimizations change no more than the order of sums here: no layer of one precision gets another.
        session = open_model(self.formats.alone(*case), optimize=True, threads=1)
        for number in range(self.shots.count):
            found = session.run(None, {self.shots.source: self.shots.image(number)})
            before, after = (
                [torch.from_numpy(value) for value in each] for each in (self.shots.answers(number), found)
            )
            with one_thread():
                total += movement(moves, before, after)
        return total / self.shots.count

    def moved(self) -> OutputError:
        """The same for another machine: see `RayPool`."""
        return replace(self, shots=self.shots.moved())


@dataclass(frozen=True, eq=False)
class MetricLoss:
    """The metric that the float network reaches less what the changed one does.

    Attributes:
        formats: the networks.
        score: the metric of a network.
        whole: the float network's.
    """

    formats: Formats
    score: Score
    whole: float

    def __call__(self, case: Case) -> float:
        """Of one group in one precision."""
        return self.whole - self.score(self.formats.alone(*case))
