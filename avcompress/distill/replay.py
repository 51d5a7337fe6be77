"""A network that learns what is new and is held to what it knew: one teacher for each sort of image.

Sources: Li and Hoiem: Learning without Forgetting, arXiv:1606.09282 (the network before it learns teaches what it
knew); Buzzega et al., arXiv:2004.07211 (on old images that are shown again).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from avcompress.distill.distillation import Distillation
from avcompress.train import count_old


class Replayed(nn.Module):
    """A student that learns by one distillation from old images, the first of every batch, by another from the rest.

    Its parameters are the student's, and what the losses of both train along.
    """

    def __init__(self, old: Distillation, new: Distillation, share: float) -> None:
        """Both are of the same student; `share` of every batch is old."""
        super().__init__()
        self.student = new.student
        self.trained_along = nn.ModuleList([old.terms, new.terms])
        # A tuple, and no submodules: the student would be in the state three times, and be averaged as often.
        self.lessons = (old, new)
        self.share = share

    def loss(self, inputs: Tensor, targets: Sequence[Any] | None = None) -> Tensor:
        """The losses of both sorts, each times its share of the batch: (); images count alike, whatever sort they are.

        Args:
            inputs: (N, C, H, W), old images first.
            targets: one for each; None without labels.
        """
        front = count_old(len(inputs), self.share)
        old, new = self.lessons
        ours, theirs = (None, None) if targets is None else (targets[front:], targets[:front])
        loss = (1 - self.share) * new.loss(inputs[front:], ours)
        return loss + self.share * old.loss(inputs[:front], theirs) if front else loss
