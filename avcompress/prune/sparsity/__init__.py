"""Sparse weights: which are 0, that they stay so in training, and that they still are in what is deployed.

masks = unstructured_masks(network, scores, share)   or two_four_masks(network)
sparse = apply_masks(network, masks)                 a network of the same structure
names = tuple(masks)                                 what later stages have to keep: Artifact.sparse
run_steps(module, settings, loss_of, Around(zeros=keep_zeros(module, names)))
check_zeros(later, zero_masks(sparse, names))        of any later network, quantized or not
check_sparse(later, names, "2:4")
"""

from avcompress.prune.sparsity.checking import Kind, check_sparse, check_zeros, zero_masks, zero_shares
from avcompress.prune.sparsity.choosing import sparse_weights
from avcompress.prune.sparsity.keeping import growing_zeros, keep_zeros
from avcompress.prune.sparsity.masks import Mask, Masks, apply_masks, sparsity
from avcompress.prune.sparsity.two_four import is_two_four, two_four, two_four_masks
from avcompress.prune.sparsity.unstructured import Scope, magnitude, saliency, unstructured

__all__ = [
    "Kind",
    "Mask",
    "Masks",
    "Scope",
    "apply_masks",
    "check_sparse",
    "check_zeros",
    "growing_zeros",
    "is_two_four",
    "keep_zeros",
    "magnitude",
    "saliency",
    "sparse_weights",
    "sparsity",
    "two_four",
    "two_four_masks",
    "unstructured",
    "zero_masks",
    "zero_shares",
]
