"""Data-free distillation: pictures whose features have the statistics that a network knows from its training.

Source: DeepInversion, Yin et al. 2020, arXiv:1912.08795; here without its class labels, so that detectors and
segmenters, whose outputs are no single class, are served alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from avcompress.distill.statistics import Statistics, moment_distance
from avcompress.distill.taps import Tapped
from avcompress.modes import evaluating
from avcompress.recipe import Preprocess
from avcompress.recipe_distill import Generation
from avcompress.spec import ModelError, Track, untracked
from calibration.generated import picture_name
from calibration.sample import Sample

GREY = 114.0
NOISE = 30.0
"""What a picture starts from: a grey, and the standard deviation of noise on it, in pixel values."""


def generate(
    teacher: nn.Module,
    statistics: Statistics,
    settings: Generation,
    preprocessing: Preprocess,
    track: Track = untracked,
) -> list[Sample]:
    """Make pictures, (H, W, 3) RGB uint8 at the network's input size, without labels.

    Each batch starts from noise; its pixels are changed until the features' means and variances, at every layer that
    `statistics` names, are those that the network knows. The same seed gives the same pictures.
    Raises ModelError when the pictures are no numbers any more.
    """
    tapped = Tapped(teacher, statistics.moments, "teacher", before=statistics.before)
    sizes = [settings.batch_size] * (settings.count // settings.batch_size)
    if settings.count % settings.batch_size:
        sizes.append(settings.count % settings.batch_size)
    generator = torch.Generator().manual_seed(settings.seed)
    samples: list[Sample] = []
    with evaluating(teacher), _frozen(teacher):
        for size in track(sizes, len(sizes)):
            noise = torch.randn(size, 3, *preprocessing.size, generator=generator)
            pictures = _fitted(tapped, statistics, settings, _Pixels(preprocessing), noise)
            start = len(samples)
            samples += [Sample(picture_name(start + i), image) for i, image in enumerate(pictures)]
    return samples


class _Pixels:
    """Between pixel values and the network's input, for each of its channels."""

    def __init__(self, preprocessing: Preprocess) -> None:
        self.mean, self.std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        self.scale, self.bgr = preprocessing.scale, preprocessing.channels == "bgr"

    def inputs(self, pixels: Tensor) -> Tensor:
        """The network's input of pixels (N, 3, H, W), 0 to 255, in the network's channel order."""
        return self.scale * (pixels - self.mean) / self.std

    def images(self, pixels: Tensor) -> list[np.ndarray]:
        """RGB uint8 pictures, (H, W, 3) each."""
        rounded = pixels.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [np.ascontiguousarray(image[..., ::-1] if self.bgr else image) for image in rounded]


def _fitted(
    tapped: Tapped, statistics: Statistics, settings: Generation, pixels: _Pixels, noise: Tensor
) -> list[np.ndarray]:
    """The pictures of one batch."""
    values = (noise * NOISE / 255 + GREY / 255).requires_grad_()
    optimizer = torch.optim.Adam([values], lr=settings.learning_rate * NOISE / 255)
    for step in range(settings.steps):
        record = tapped(pixels.inputs(values * 255))
        distances = [moment_distance(record.taps[name], known) for name, known in statistics.moments.items()]
        loss = torch.stack(distances).mean() + settings.smoothness * roughness(values)
        if not torch.isfinite(loss):
            raise ModelError(
                f"generate: expected a finite loss, got {loss.item()} at step {step}; lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            values.clamp_(0, 1)
    return pixels.images(values.detach() * 255)


def roughness(pixels: Tensor) -> Tensor:
    """The mean difference of neighbours, total variation: () of (N, C, H, W). Source: arXiv:1912.08795."""
    return pixels.diff(dim=2).abs().mean() + pixels.diff(dim=3).abs().mean()


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Parameters without gradients for a while: only the pictures have some."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
