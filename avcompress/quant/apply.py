"""Every stage that works on an ONNX network, by its settings."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import assert_never

from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import (
    AdaRound,
    Cast,
    CorrectBias,
    Dynamic,
    Equalize,
    Preparing,
    Ptq,
    Quantizing,
    Reconstruct,
    Repairing,
    Smooth,
    WeightOnly,
)
from avcompress.spec import Artifact, Batch

NetworkStage = Preparing | Quantizing | Repairing | Cast


def apply(stage: NetworkStage, artifact: Artifact, batches: Iterable[Batch]) -> Artifact:  # noqa: C901 (one case each)
    """Run one stage on an Artifact whose model is an onnx.ModelProto; `batches` may be gone through several times."""
    match stage:
        case Ptq():
            return quantize(artifact, stage, batches)
        case Dynamic():
            from avcompress.quant.stages.dynamic import quantize_dynamic

            return quantize_dynamic(artifact, stage)
        case WeightOnly():
            from avcompress.quant.stages.weight_only import quantize_weights

            return quantize_weights(artifact, stage)
        case Cast():
            from avcompress.quant.stages.cast import cast

            return cast(artifact, stage)
        case Equalize():
            from avcompress.quant.stages.equalize import equalize

            return equalize(artifact, stage)
        case Smooth():
            from avcompress.quant.stages.smooth import smooth

            return smooth(artifact, stage, batches)
        case CorrectBias():
            from avcompress.quant.stages.correct_bias import correct_bias

            return correct_bias(artifact, stage, batches)
        case AdaRound():
            from avcompress.quant.stages.adaround import adaround

            return adaround(artifact, stage, batches)
        case Reconstruct():
            from avcompress.quant.stages.reconstruct import reconstruct

            return reconstruct(artifact, stage, batches)
        case _:
            assert_never(stage)


def title(stage: NetworkStage, images: int) -> str:  # noqa: C901 (one case each)
    """What a stage is called while it runs."""
    match stage:
        case Ptq():
            return f"quantize (PTQ, {stage.format}, {stage.ranges} ranges)"
        case Dynamic():
            return "quantize (dynamic, int8)"
        case WeightOnly():
            return f"quantize weights ({stage.format})"
        case Cast():
            return f"cast to {stage.format}"
        case Equalize():
            return "equalize layers"
        case Smooth():
            return f"smooth activations ({images} images)"
        case CorrectBias():
            return f"correct biases ({stage.method})"
        case AdaRound():
            return f"learn rounding (AdaRound, {stage.steps} steps a layer)"
        case Reconstruct():
            return f"reconstruct blocks ({stage.steps} steps a block)"
        case _:
            assert_never(stage)
