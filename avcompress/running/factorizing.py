"""The stage `factorize`: layers taken apart into products of smaller ones, where that is measured to be faster."""

from __future__ import annotations

from dataclasses import asdict, replace

import onnx

from avcompress.recipe_lowrank import Factorize
from avcompress.running.bench import Bench
from avcompress.running.choosing import Made
from avcompress.running.targeting import engine_of
from avcompress.spec import Artifact, Track
from calibration.batches import Batches
from engines.turns import engine_clock
from validation.report import Factor, Factorization


def factorize(bench: Bench, where: str, stage: Factorize, artifact: Artifact, track: Track) -> Made:
    """The network with cheaper layers; without any, as it is.

    Raises RecipeError for a backend that does not run here, a pattern without a layer or a rank that is too large.
    """
    from avcompress.lowrank import factorize as take_apart

    network: onnx.ModelProto = artifact.model
    images = Batches(bench.calibration, bench.recipe.preprocess, network.graph.input[0].name)
    engine = engine_of(bench.engines, stage.backend, where)
    named = stage.model_copy(update={"backend": engine.backend})
    found = take_apart(network, named, images, engine_clock(engine), track)
    facts = Factorization(
        step="",
        engine=engine.backend,
        before_ms=found.ms_before,
        after_ms=found.ms_after,
        layers=tuple(Factor.model_validate(asdict(each)) for each in found.decompositions),
        left={each.layer: each.reason for each in found.left},
    )
    return Made(replace(artifact, model=found.network, log=(*artifact.log, *found.log)), facts)
