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

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Any, Any], Tensor]
"""A scalar, of what the network returns and the targets of a batch."""


@dataclass(frozen=True)
class Lesson:
    """What a network is asked.

    Attributes:
        batches: inputs (N, C, H, W) with what the loss wants of them; gone through once for each criterion.
        loss: a mean over the images of a batch; None is `response`, which looks at no targets.
        seed: of the directions of `response`.
    """

    batches: Iterable[tuple[Tensor, Any]]
    loss: Loss | None = None
    seed: int = 0

    def loss_of(self) -> Loss:
        """The loss; that of `response` draws the same directions each time that it is asked for."""
        return self.loss or _Response(self.seed)


class _Response:
    """The outputs of each image times signs drawn by chance, in parts of their own deviation, the mean over images: ().

    The square of an image's counts each output by the mean over its values, and several outputs by their mean.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, outputs: Any, _targets: Any) -> Tensor:
        parts = [self._part(output) for output in _floats(outputs)]
        total: Tensor = torch.stack(parts).sum()
        return total / math.sqrt(len(parts))

    def _part(self, output: Tensor) -> Tensor:
        values = output.float()
        signs = torch.randint(0, 2, output.shape, generator=self.generator).to(values) * 2 - 1
        spread = (values.detach() - values.detach().mean()).square().mean().sqrt()
        spread = spread.clamp(min=torch.finfo(torch.float32).tiny)
        images = len(values) if values.dim() else 1
        part: Tensor = (values * (signs / spread)).sum() / math.sqrt(values.numel() * images)
        return part


def _floats(outputs: Any) -> list[Tensor]:
    match outputs:
        case Tensor():
            return [outputs] if outputs.is_floating_point() else []
        case dict():
            return [part for value in outputs.values() for part in _floats(value)]
        case _:
            return [part for value in outputs for part in _floats(value)]
