"""Losses between feature maps, (N, C, H, W) each, of the same shape unless they say otherwise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avcompress.distill.soft import softmax_divergence

EPSILON = 1e-6


def mimicry(student: Tensor, teacher: Tensor, standardize: bool) -> Tensor:
    """The mean squared difference: (); standardized by channel first, it is 2 (1 - correlation).

    Tensors of any shape (N, C, ...); a channel that never changes has no correlation and counts nothing.
    Source: FitNets, arXiv:1412.6550, eq. 3; standardized: PKD, arXiv:2207.02039.
    """
    if standardize:
        student, teacher = _standardized(student), _standardized(teacher)
    return F.mse_loss(student, teacher)


def _standardized(x: Tensor) -> Tensor:
    """Every channel at zero mean and unit variance over images and places."""
    dims = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + EPSILON)


def attention_map(x: Tensor) -> Tensor:
    """Where a layer looks: the sum of its channels' squares at each pixel, of unit length: (N, H * W)."""
    return F.normalize(x.square().sum(1).flatten(1), dim=1)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared distance of the two attention maps, the mean over images: (), from 0 to 2.

    The numbers of channels may differ. It is 2 (1 - cosine of the two maps).
    Source: Zagoruyko and Komodakis, arXiv:1612.03928, eq. 2, with the square of the distance as their code has it.
    """
    return (attention_map(student) - attention_map(teacher)).square().sum(1).mean()


def channel_wise(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of every channel as a distribution over pixels, the mean over channels and images: ().

    Source: CWD, Shu et al. 2021, arXiv:2011.13256.
    """
    return softmax_divergence(student.flatten(2), teacher.flatten(2), temperature, axis=2)


def masked_generation(student: Tensor, teacher: Tensor, keep: Tensor, generate: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean squared difference of what is generated from the unmasked pixels: ().

    Args:
        student: features with as many channels as the teacher's.
        teacher: what is to be generated.
        keep: (N, 1, H, W), 0 where a pixel is masked, else 1.
        generate: (N, C, H, W) to the same; two 3x3 convolutions in the paper.

    Source: MGD, Yang et al. 2022, arXiv:2205.01529; the mean instead of their sum, so that the weight does
    not depend on the size.
    """
    return F.mse_loss(generate(student * keep), teacher)


def random_keep(x: Tensor, mask: float) -> Tensor:
    """A mask (N, 1, H, W) for features (N, C, H, W): 0 where chance, with probability `mask`, hides a pixel."""
    drawn = torch.rand(x.shape[0], 1, *x.shape[2:], device=x.device)
    return (drawn >= mask).to(x.dtype)
