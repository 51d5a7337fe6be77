"""avcompress.quant.analysis.probe: errors summed inside the graph, against the same sums in NumPy."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.quant.analysis.probe import probe
from avcompress.quant.analysis.restore import quantized_layers, restored
from avcompress.quant.stages.cast import cast
from avcompress.recipe import Cast
from avcompress.spec import Artifact, Batch, DataError
from engines.in_memory import open_model
from engines.onnx_graph import with_outputs
from validation.drift import decibels

OUTPUTS = {"Conv_0": "a", "Conv_2": "b", "Conv_4": "y"}


def value(model: onnx.ModelProto, tensor: str, batch: Batch) -> np.ndarray:
    return open_model(with_outputs(model, [tensor])).run([tensor], dict(batch))[0].astype(np.float64)


def test_every_sum_is_that_of_numpy(small_artifact: Artifact, small_batches: list[Batch]) -> None:
    model, reference = small_artifact.model, small_artifact.reference
    found = probe(model, reference, small_batches)

    assert list(found) == list(OUTPUTS)
    for layer, tensor in OUTPUTS.items():
        others = set(quantized_layers(model, reference)) - {layer}
        alone = restored(model, reference, others)
        variants = {
            "signal": None,
            "error": alone,
            "weights": restored(alone, reference, {layer}, ("activations",)),
            "activations": restored(alone, reference, {layer}, ("weights",)),
            "depth": model,
        }
        for kind, variant in variants.items():
            floats = [value(reference, tensor, batch) for batch in small_batches]
            got = [value(variant, tensor, batch) if variant else 0 for batch in small_batches]
            expected = sum(np.square(f - g).sum() for f, g in zip(floats, got, strict=True))
            assert getattr(found[layer], kind) == pytest.approx(expected, rel=1e-4)


def test_the_first_layer_has_no_error_but_its_own_and_a_later_one_has_more(
    small_artifact: Artifact, small_batches: list[Batch]
) -> None:
    found = probe(small_artifact.model, small_artifact.reference, small_batches)

    assert found["Conv_0"].depth == pytest.approx(found["Conv_0"].error)
    assert found["Conv_4"].depth > 1.2 * found["Conv_4"].error


def test_a_network_that_was_cast_is_measured_with_what_the_cast_rounds(
    small_artifact: Artifact, small_batches: list[Batch]
) -> None:
    before = probe(small_artifact.model, small_artifact.reference, small_batches)
    after = probe(cast(small_artifact, Cast(kind="cast")).model, small_artifact.reference, small_batches)

    for layer, power in before.items():
        assert after[layer].signal == power.signal
        assert after[layer].error == pytest.approx(power.error, rel=0.05)
        assert after[layer].error != power.error


def test_no_image_is_an_error(small_artifact: Artifact) -> None:
    with pytest.raises(DataError, match="at least one image"):
        probe(small_artifact.model, small_artifact.reference, [])


def test_a_ratio_of_a_hundred_is_twenty_decibels() -> None:
    assert decibels(100, 1) == pytest.approx(20)
    assert decibels(1, 0) == float("inf")
    assert decibels(0, 1) == float("-inf")


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_more_noise_is_fewer_decibels(signal: float, noise: float) -> None:
    assert decibels(signal, 2 * noise) == pytest.approx(decibels(signal, noise) - 3.0103, abs=1e-3)
