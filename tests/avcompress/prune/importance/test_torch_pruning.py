"""The scores that Torch-Pruning 1.6.0 gives the same network, as numbers: an independent implementation.

MagnitudeImportance(p=1 or 2); TaylorImportance(multivariable=True, normalizer=None, group_reduction="gate") after the
backward pass of the mean square of the outputs. It looks at the last layer of a group alone: only the second group,
which one layer reads, is comparable.
"""

import pytest
import torch
from torch import nn

from avcompress.export import to_onnx
from avcompress.onnx_import import import_onnx
from avcompress.prune import channel_groups
from avcompress.prune.importance import Lesson, l1, l2, taylor

THEIRS = {
    "l1": {
        "/stem/Conv": [0.960974, 1.085472, 0.998496, 0.955059],
        "/first/Conv": [0.946076, 1.012966, 1.059885, 1.041982, 0.997975, 0.941117],
    },
    "l2": {
        "/stem/Conv": [0.951935, 1.129815, 0.989129, 0.929120],
        "/first/Conv": [0.928421, 1.017046, 1.089781, 1.066230, 0.975476, 0.923046],
    },
    "taylor": {
        "/first/Conv": [0.000381, 0.014884, 0.010326, 0.016239, 0.008586, 0.032426],
    },
}


class Residual(nn.Module):
    """Two groups, one of them shared by a sum; the weights are sin((1.7 + i) k)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.first = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.second = nn.Conv2d(6, 4, 1, bias=False)
        self.head = nn.Conv2d(4, 2, 1, bias=False)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.sin(torch.arange(p.numel(), dtype=torch.float64) * (1.7 + i)).reshape(p.shape))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.second(torch.relu(self.first(x)))
        return self.head(torch.relu(x))


@pytest.mark.parametrize("criterion", THEIRS)
def test_coupled_layers_have_the_scores_of_torch_pruning(criterion):
    network = to_onnx(Residual().eval(), (6, 6))
    coupling = channel_groups(network)
    image = torch.sin(torch.arange(3 * 6 * 6, dtype=torch.float32) * 0.37).reshape(1, 3, 6, 6)

    if criterion == "taylor":
        lesson = Lesson([(image, None)], lambda outputs, _: outputs.square().mean())
        ours = taylor(import_onnx(network), coupling, lesson)
    else:
        ours = {"l1": l1, "l2": l2}[criterion](network, coupling)

    assert ours.keys() == {"/stem/Conv", "/first/Conv"}
    for name, values in THEIRS[criterion].items():
        assert ours[name] == pytest.approx(values, abs=2e-6)
