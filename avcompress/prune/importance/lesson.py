"""What importance by gradients is computed with: images, and a loss of the network's outputs; labels or not.

Without labels the loss of an image is `response`: the outputs in a random direction. A network's distance to its own
outputs would not do: it is smallest where the network is, so that its gradient is zero. Its second derivative is not,
and that is what squared gradients of `response` are on average: J'J with the Jacobian J of the outputs, the
Gauss-Newton matrix of the squared distance, which says by how much the outputs move when weights do.

Sources: Martens: New insights and perspectives on the natural gradient method, arXiv:1412.1193, section 9; random
directions: Hutchinson 1989; why not squared gradients of a loss by the network's own hard decisions: Kunstner et al.,
arXiv:1905.12558.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avcompress.distill.movement import Moves, moves_of_values

Loss = Callable[[Any, Any], Tensor]
"""A scalar, of what the network returns and the targets of a batch."""


@dataclass(frozen=True)
class Lesson:
    """What a network is asked.

    Attributes:
        batches: inputs (N, C, H, W) with what the loss wants of them; gone through once for each criterion.
        loss: a mean over the images of a batch; None is `response`, which looks at no targets.
        moves: the units in which `response` takes the outputs.
        seed: of the directions of `response`.
    """

    batches: Iterable[tuple[Tensor, Any]]
    loss: Loss | None = None
    moves: Moves = moves_of_values
    seed: int = 0

    def loss_of(self) -> Loss:
        """The loss; that of `response` draws the same directions each time that it is asked for."""
        return self.loss or _Response(self.moves, self.seed)


class _Response:
    """The outputs, in units of what their movement counts, times signs drawn by chance: ()."""

    def __init__(self, moves: Moves, seed: int) -> None:
        self.moves = moves
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, outputs: Any, _targets: Any) -> Tensor:
        return torch.stack([self._along(part) for part in self.moves(outputs)]).sum()

    def _along(self, values: Tensor) -> Tensor:
        signs = torch.randint(0, 2, values.shape, generator=self.generator).to(values) * 2 - 1
        return (values * signs).sum()
