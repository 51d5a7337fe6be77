"""That the zeros of sparse weights are still there after a stage: a defect of ours must not pass in silence."""

from __future__ import annotations

from avcompress.spec import Artifact


def check_kept(before: Artifact, after: Artifact) -> None:
    """Raise ModelError, naming the layer, where a weight that was sparse is less so; both artifacts hold ONNX networks.

    Does nothing for artifacts without sparse weights, which need no torch.
    """
    if not after.sparse:
        return
    from avcompress.prune.sparsity import check_sparse, check_zeros, zero_masks

    if before.sparse:
        # Not those of a quantized network: a weight that rounding took to 0 may leave it again.
        known = before.model if before.reference is None else before.reference
        check_zeros(after.model, zero_masks(known, before.sparse))
    for name, kind in after.sparse.items():
        check_sparse(after.model, [name], kind)


def sparse_line(artifact: Artifact) -> str:
    """One line: how many of the weights that were made sparse are zero."""
    from avcompress.prune.sparsity import sparsity, zero_masks

    masks = zero_masks(artifact.model, artifact.sparse)
    count = sum(mask.size for mask in masks.values())
    return f"sparse: {100 * sparsity(masks):.1f} % of {count:,} weights in {len(masks)} layers are zero"
