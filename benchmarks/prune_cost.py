"""What pruning costs in seconds: a ResNet-50 of 25.6 million parameters, grouped, scored, and cut by half.

    python benchmarks/prune_cost.py

Random weights: what is timed does not depend on them. One thread. Ends with 1 above 10 s of the processor's time.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from avcompress.export import to_onnx  # noqa: E402
from avcompress.prune import channel_groups, without  # noqa: E402
from avcompress.prune.importance import l2  # noqa: E402
from avcompress.prune.selection import Selection, select  # noqa: E402
from engines.onnx_graph import parameters, total_macs  # noqa: E402

LIMIT_S = 10.0
BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution and its normalization."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """He et al., arXiv:1512.03385, figure 5, with the stride in the 3x3 as torchvision has it."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, width), conv(width, width, 3, stride)
        self.third = conv(width, 4 * width)
        self.short = conv(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, 4 * width, H / stride, W / stride)."""
        y = self.third(self.second(self.first(x).relu()).relu())
        return (y + self.short(x)).relu()


def resnet50() -> nn.Module:
    """Its 25,557,032 parameters."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, (width, count) in enumerate(BLOCKS):
        for index in range(count):
            layers.append(Bottleneck(inputs, width, 2 if stage and not index else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)).eval()


@contextmanager
def timed(what: str, spent: list[float]) -> Iterator[None]:
    """Print what something took, and add it."""
    start = time.process_time()
    yield
    spent.append(time.process_time() - start)
    print(f"{what:<32} {spent[-1]:6.2f} s")


def main() -> None:
    """Prune, print each part's time, and end with 1 when it is too long."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = to_onnx(resnet50(), (224, 224), keep_norms=True)
    spent: list[float] = []
    with timed("find what goes together", spent):
        coupling = channel_groups(network)
    with timed("importance, l2", spent):
        scores = l2(network, coupling)
    with timed("choose half of the channels", spent):
        removed = select(coupling, scores, Selection(0.5, "local", 8))
    with timed("cut them out", spent):
        small = without(network, coupling, removed)
    sizes: dict[str, Callable[..., int]] = {"parameters": parameters, "multiply-accumulates": total_macs}
    print(f"{len(coupling.groups)} groups, {sum(len(group.channels) for group in coupling.groups):,} channels")
    for name, of in sizes.items():
        print(f"{name}: {of(network):,} to {of(small):,}")
    print(f"in all {sum(spent):.2f} s of the processor")
    sys.exit(0 if sum(spent) <= LIMIT_S else 1)


if __name__ == "__main__":
    main()
