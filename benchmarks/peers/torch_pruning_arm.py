"""Torch-Pruning on one network: its importance, its global pruning, a network for each ratio.

It wants layers that are modules. A torch module is taken as it is, an ONNX file through onnx2torch, which is held
against ONNX Runtime. Both packages come without their dependencies and run in this process, on the torch of this suite.
"""

import copy
import sys
import types
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from peers.peer_environment import peer_python
from torch import Tensor, nn

from avcompress.export import to_onnx
from engines.network import network_inputs

ALIGN = 8
MOST = 0.9
"""The share of channels, of all and of a layer, that goes at most; ours keeps a tenth of a layer, too."""
TOLERANCE = 1e-3
TAYLOR, MAGNITUDE = "taylor", "magnitude"


class PeerError(Exception):
    """The peer cannot do what it is asked; the message says what."""


@dataclass(frozen=True)
class Prunable:
    """A network as the peer takes it.

    Attributes:
        module: in eval mode; its parameters have gradients where importance goes by them.
        size: height and width of its input.
        input_name: of the input in ONNX.
        kept: patterns of the names of the layers that give the output.
        importance: taylor or magnitude.
        entered: whether the image needs a layer before all others; see Entered.
    """

    module: nn.Module
    size: tuple[int, int]
    input_name: str
    kept: Sequence[str]
    importance: str
    entered: bool = False


class Entered(nn.Module):
    """A network behind a convolution that gives the image as it is.

    Torch-Pruning 1.6.1 follows gradients. A part of a concatenation that comes from the image through no layer has
    none, its channels are missing in the sum (update_concat_index_mapping), and the network that is left does not run:
    ESPNet's, "running_mean should contain 83 elements not 107".
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.entry.weight)
        self.network = network

    def forward(self, image: Tensor) -> Any:
        """What the network gives."""
        return self.network(self.entry(image))


def install(work: Path) -> None:
    """Make the peer's packages importable, which are installed under `work` once; raises InstallError."""
    python = peer_python("torch-pruning", work)
    folders = [str(path) for path in python.parents[1].glob("lib/python3*/site-packages")]
    sys.path.extend(folder for folder in folders if folder not in sys.path)  # last: nothing of ours is replaced


def as_modules(network: onnx.ModelProto) -> nn.Module:
    """An ONNX network as torch modules; raises PeerError where they give other numbers than ONNX Runtime."""
    _without_torchvision()
    import onnx2torch

    module = onnx2torch.convert(network).eval()
    _compare(module, network)
    return module


def _without_torchvision() -> None:
    """onnx2torch imports it for NonMaxSuppression and RoiAlign alone; its wheels want a torch with CUDA."""
    operators: Any = types.ModuleType("torchvision.ops")
    operators.roi_align = None
    package: Any = types.ModuleType("torchvision")
    package.ops = operators
    sys.modules.setdefault("torchvision", package)
    sys.modules.setdefault("torchvision.ops", operators)


def _compare(module: nn.Module, network: onnx.ModelProto) -> None:
    import onnxruntime

    ((name, shape),) = network_inputs(network).items()
    image = np.random.default_rng(0).standard_normal(tuple(shape), dtype=np.float32)
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {name: image})[0]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = module(torch.from_numpy(image)).numpy()
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if error > TOLERANCE:
        raise PeerError(f"onnx2torch: expected what ONNX Runtime gives, got a relative error of {error:.2g}")


def take_gradients_(module: nn.Module, batches: Iterable[tuple[Tensor, Any]], loss: Any) -> None:
    """Sum up the gradients of a loss of outputs and samples over all batches, in eval mode."""
    module.requires_grad_(True)
    module.zero_grad()
    for images, samples in batches:
        loss(module(images), samples).backward()


def pruned(prunable: Prunable, ratio: float) -> onnx.ModelProto:
    """The network without a share of its channels, its batch normalization kept; raises PeerError."""
    import torch_pruning

    module = _copied(prunable.module)
    traced: nn.Module = Entered(module) if prunable.entered else module
    kept = [
        layer for name, layer in module.named_modules() if name and any(fnmatchcase(name, p) for p in prunable.kept)
    ]
    if not kept:
        raise PeerError(f"expected layers that fit {', '.join(prunable.kept)}, got none")
    if isinstance(traced, Entered):
        kept.append(traced.entry)
    by = torch_pruning.importance
    importance = by.GroupTaylorImportance() if prunable.importance == TAYLOR else by.GroupMagnitudeImportance(p=2)
    image = torch.randn(1, 3, *prunable.size, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch_pruning.pruner.BasePruner(
                traced,
                image,
                importance,
                global_pruning=True,
                pruning_ratio=ratio,
                max_pruning_ratio=MOST,
                ignored_layers=kept,
                round_to=ALIGN,
            ).step()
            return to_onnx(module.eval(), prunable.size, prunable.input_name, keep_norms=True)
        except Exception as error:
            raise PeerError(f"at a ratio of {ratio:.3f}: {type(error).__name__}: {error}") from error


def _copied(module: nn.Module) -> nn.Module:
    """A copy, gradients and all: torch's own leaves them behind."""
    copied = copy.deepcopy(module).requires_grad_(True)
    for own, other in zip(copied.parameters(), module.parameters(), strict=True):
        own.grad = None if other.grad is None else other.grad.clone()
    return copied
