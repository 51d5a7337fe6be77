"""The stage `sparsify`: which weights become zero, at once or while the network trains, and that they stay so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from typing import TYPE_CHECKING, cast

import onnx

from avcompress.recipe_prune import Sparsify
from avcompress.running.choosing import Chooser, Made, made_by, may_change, refuse_unmatched
from avcompress.running.training import Growth
from avcompress.running.zeros import sparse_line
from avcompress.spec import Artifact, Track

if TYPE_CHECKING:
    from torch import fx, nn

    from avcompress.spec import Array
    from avcompress.train import Zeros


def sparsify(chooser: Chooser[Sparsify], artifact: Artifact, track: Track) -> Made:
    """The network whose least important weights are zero; the artifact knows which they are.

    Raises RecipeError for patterns that no layer has, ModelError where no weight can be sparse.
    """
    from avcompress.prune.sparsity import apply_masks, two_four_masks, unstructured

    network, stage = artifact.model, chooser.stage
    names = _weights(chooser, network)
    known = _importance(chooser.watched(track), network)
    scores = {name: known[name] for name in names}
    if stage.pattern == "2:4":
        masks = two_four_masks(network, scores)
    else:
        masks = unstructured(scores, stage.share, stage.scope)
    sparse = {**artifact.sparse, **dict.fromkeys(names, stage.pattern)}
    done = replace(artifact, model=apply_masks(network, masks), sparse=sparse)
    return Made(replace(done, log=(*artifact.log, sparse_line(done))))


def growing(chooser: Chooser[Sparsify]) -> Growth:
    """Zeros that become more while the network trains: from a tenth of its steps on, by a cubic rise, for a half."""
    from avcompress.prune.schedule import Rise
    from avcompress.prune.sparsity import growing_zeros

    stage, model = chooser.stage, chooser.model
    names = _weights(chooser, model.whole(model.artifact.model))

    def zeros(module: fx.GraphModule, prefix: str, steps: int) -> Zeros:
        rise = Rise(round(0.1 * steps), round(0.6 * steps), stage.share, every=max(1, steps // 100))
        return growing_zeros(module, names, rise, stage.scope, _scores_of(chooser, names, prefix), prefix)

    known = (stage.model_dump(exclude={"recover"}), names, made_by(chooser))
    return Growth(zeros, known, dict.fromkeys(names, stage.pattern))


def _scores_of(
    chooser: Chooser[Sparsify], names: Sequence[str], prefix: str
) -> Callable[[nn.Module], Mapping[str, Array]] | None:
    """The importance of the weights of what is trained at the time; None for magnitude, which needs no images."""
    from avcompress.prune.sparsity import saliency

    if chooser.stage.importance == "magnitude":
        return None
    lesson = chooser.lesson()

    def scores(trained: nn.Module) -> Mapping[str, Array]:
        found = saliency(cast("fx.GraphModule", trained.get_submodule(prefix.rstrip("."))), lesson)
        return {name: found[name] for name in names}

    return scores


def _weights(chooser: Chooser[Sparsify], network: onnx.ModelProto) -> tuple[str, ...]:
    """The constants that become sparse."""
    from avcompress.prune.sparsity import sparse_weights
    from avcompress.prune.weights import ready, weights_of

    stage = chooser.stage
    layers = [weight.layer for weight in weights_of(ready(network))]
    refuse_unmatched(layers, stage, chooser.where)
    return sparse_weights(network, stage.pattern, [escape(name) for name in layers if not may_change([name], stage)])


def _importance(chooser: Chooser[Sparsify], network: onnx.ModelProto) -> Mapping[str, Array]:
    from avcompress.onnx_import import import_onnx
    from avcompress.prune.sparsity import magnitude, saliency

    if chooser.stage.importance == "magnitude":
        return magnitude(network)
    return saliency(import_onnx(network), chooser.lesson())
