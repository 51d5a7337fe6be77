"""What pruning and factorization have to know of a recipe's targets."""

import pytest

from avcompress.recipe import OpenVinoEngine, OrtEngine, RtxEngine
from avcompress.running.targeting import engine_of
from avcompress.spec import RecipeError

REFERENCE, VINO = OrtEngine(backend="ort"), OpenVinoEngine(backend="openvino")
OPTIMIZED = OrtEngine(backend="ort", optimize=True)
RTX = RtxEngine(backend="trt_rtx", compute_capabilities=("sm89",))


@pytest.mark.parametrize(
    ("engines", "named", "wanted"),
    [
        ((REFERENCE, VINO), None, VINO),  # the reference is slow on purpose
        ((RTX, REFERENCE), None, REFERENCE),  # what does not run here counts for nothing
        ((OPTIMIZED, VINO), None, OPTIMIZED),
        ((REFERENCE, VINO), "ort", REFERENCE),
    ],
)
def test_the_engine_whose_latency_counts(engines, named, wanted):
    assert engine_of(engines, named, "stages[0]") is wanted


def test_an_engine_that_is_not_there_is_told():
    with pytest.raises(
        RecipeError, match=r"^stages\[0\]\.backend: expected openvino among target\.engines, .* got ort;"
    ):
        engine_of((REFERENCE,), "openvino", "stages[0]")
