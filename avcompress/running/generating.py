"""Images that a run makes itself, `format: generated`: of what its network knows of those it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from PIL import Image

from avcompress.recipe import GeneratedSource
from avcompress.running.bench import Bench, generated_step
from avcompress.spec import RecipeError, Track
from avcompress.state import step_key

if TYPE_CHECKING:
    from torch import nn

    from avcompress.distill.statistics import Statistics


def generate_images(bench: Bench, model: Any, key: str) -> None:
    """Take the steps that make images for the parts of the data that are generated, of the network as it was loaded.

    Args:
        bench: of the run.
        model: the network, a torch module or an ONNX one.
        key: stands for it.

    Raises RecipeError for a network that knows no statistics of its features.
    """
    for part in ("train", "calibration"):
        settings = getattr(bench.recipe.data, part)
        if isinstance(settings, GeneratedSource):
            _step(bench, part, settings, model, key)


def _step(bench: Bench, part: str, settings: GeneratedSource, model: Any, key: str) -> None:
    preprocess = bench.recipe.preprocess

    def compute(folder: Path, track: Track) -> None:
        from avcompress.distill import generate

        module, statistics = _known(part, model)
        for sample in generate(module, statistics, settings, preprocess, track):
            Image.fromarray(sample.image).save(folder / f"{sample.name}.png")

    key = step_key("generate", key, settings.model_dump(), preprocess.model_dump())
    bench.step(generated_step(part), f"generate {settings.count} images", key, compute)


def _known(part: str, model: Any) -> tuple[nn.Module, Statistics]:
    """The network as a module, and what it knows."""
    from avcompress.distill import folded_statistics, stored_statistics
    from avcompress.onnx_import import import_onnx

    network = model if isinstance(model, onnx.ModelProto) else None
    module = model if network is None else import_onnx(network)
    found = stored_statistics(module) or (None if network is None else folded_statistics(network))
    if found is None:
        raise RecipeError(
            f"data.{part}: expected a network with batch normalization for format: generated, got one without: what "
            "it knew of its images has been folded into its layers; give images"
        )
    if found.before and not any(m.mean.any() or (m.variance != 1).any() for m in found.moments.values()):
        raise RecipeError(
            f"data.{part}: expected a network that was trained for format: generated, got batch normalizations that "
            "have seen no image; give model.weights, or images"
        )
    return module, found
