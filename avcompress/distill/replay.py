"""A network that learns what is new and is held to what it knew: one teacher for each sort of image.

Sources: Li and Hoiem: Learning without Forgetting, arXiv:1606.09282 (the network before it learns teaches what it
knew); Buzzega et al., arXiv:2004.07211 (on old images that are shown again).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import compress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avcompress.distill.distillation import Distillation
from avcompress.train import old_places


class Replayed(nn.Module):
    """A student that learns by one distillation from the old images of every batch, by another from the new ones.

    Its parameters are the student's, and what the losses of both train along.
    """

    def __init__(self, old: Distillation, new: Distillation, share: Fraction) -> None:
        """Both are of the same student; `share` of every batch is old, as `old_places` has it."""
        super().__init__()
        self.student = new.student
        self.trained_along = nn.ModuleList([old.terms, new.terms])
        # A tuple, and no submodules: the student would be in the state three times, and be averaged as often.
        self.lessons = (old, new)
        self.share = share

    def loss(self, inputs: Tensor, targets: Sequence[Any] | None = None) -> Tensor:
        """The losses of both sorts, each times its share of the batch: (); images count alike, whatever sort they are.

        Args:
            inputs: (N, C, H, W).
            targets: one for each; None without labels.
        """
        places = old_places(len(inputs), self.share)
        share = float(self.share)
        loss = (1 - share) * self._of(1, ~places, inputs, targets)
        return loss + share * self._of(0, places, inputs, targets) if share else loss

    def _of(self, lesson: int, places: NDArray[np.bool_], inputs: Tensor, targets: Sequence[Any] | None) -> Tensor:
        """The loss of one sort, which is at these places."""
        chosen = None if targets is None else list(compress(targets, places))
        return self.lessons[lesson].loss(inputs[torch.from_numpy(places).to(inputs.device)], chosen)
