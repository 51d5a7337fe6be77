"""Ranges of activations move with new images: by what these add, never so far that old values are clipped."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.quant.learning.qat_module import tied
from avcompress.quant.stages.dynamic import quantize_dynamic
from avcompress.quant.stages.ptq import quantize
from avcompress.quant.stages.reestimate import moved, reestimate
from avcompress.recipe import Dynamic, KeepFloat, Ptq
from avcompress.spec import Artifact, ModelError, QuantParams
from calibration.histogram import histogram
from calibration.statistics import TensorStatistics
from engines.in_memory import open_model
from engines.onnx_graph import with_outputs
from engines.qdq import qdq_sites, without_qdq

MINMAX = Ptq(kind="ptq", ranges="minmax", keep_float=KeepFloat(head=False))
JOINED = """
<ir_version: 8, opset_import: ["" : 17]>
joined (float[1,3,12,12] x) => (float[1,4,12,12] y) {
    a = Conv <pads = [1,1,1,1]> (x, wa)
    ra = Relu (a)
    b = Conv <pads = [1,1,1,1]> (ra, wb)
    rb = Relu (b)
    c = Concat <axis = 1> (ra, rb)
    y = Conv (c, wy)
}
"""


def of(*values: float) -> TensorStatistics:
    hist = histogram(np.float32(values))
    return TensorStatistics(hist, np.float32([[hist.low, hist.high]]))


def brighter(batches, factor: float):
    return [{"x": np.float32(factor) * batch["x"]} for batch in batches]


def scales(artifact: Artifact) -> dict[str, float]:
    """Of activations, as the graph has them."""
    sites = [site for site in qdq_sites(artifact.model) if not site.constant]
    return {site.tensor: site.params.scale[0] for site in sites}


def stored(artifact: Artifact) -> bytes:
    return artifact.model.SerializeToString(deterministic=True)


def test_a_range_grows_by_the_factor_that_new_images_add_to_its_estimate_and_keeps_what_training_made_of_it():
    trained = QuantParams((0.5,), (0,))  # -63.5 .. 63.5, where the old images reach 100

    grown = moved(trained, of(-100, 50), of(-100, 50, 150), MINMAX)

    assert grown == QuantParams((0.75,), (0,))  # half as much again


def test_a_range_shrinks_no_further_than_what_it_held_of_the_old_images():
    percentile = Ptq(kind="ptq", ranges="percentile", percentile=60)
    before, after = of(4, 4, 4, 40), of(4, 4, 4, 40, *[1] * 96)

    wide = moved(QuantParams((1.0,), (0,)), before, after, percentile)
    tight = moved(QuantParams((0.01,), (0,)), before, after, percentile)

    assert wide.scale[0] == pytest.approx(40 / 127)  # all of them, 40 too
    assert tight.scale[0] == 0.01  # 40 was clipped before, and so it stays


def test_without_new_values_nothing_moves_and_zeros_alone_say_nothing():
    params = QuantParams((0.123,), (0,))

    assert moved(params, of(-3, 2), of(-3, 2), MINMAX) is params
    assert moved(params, of(0, 0), of(0, 0, 0), MINMAX) is params
    assert moved(params, of(0, 0), of(0, 0, 12.7), MINMAX).scale[0] == pytest.approx(0.1)


def test_both_ends_of_an_asymmetric_range_move_on_their_own():
    settings = Ptq(kind="ptq", ranges="minmax", activations="asymmetric")
    params = QuantParams((1.0,), (-28,))  # -100 .. 155

    higher = moved(params, of(-100, 155), of(-100, 310), settings)
    lower = moved(QuantParams((1.0,), (-128,)), of(0, 255), of(-255, 255), settings)

    assert higher.scale[0] == pytest.approx(410 / 255)
    assert (-128 - higher.zero_point[0]) * higher.scale[0] == pytest.approx(-100, abs=higher.scale[0] / 2)
    assert lower.scale[0] == pytest.approx(2.0)
    assert lower.zero_point[0] in {-1, 0}


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    st.floats(0.01, 3.0),
    st.sampled_from(["minmax", "mse", "percentile", "moving_average"]),
)
def test_no_old_value_is_clipped_that_was_not_before(old, new, scale, ranges):
    before, after = of(*old), of(*old, *new)
    params = QuantParams((float(np.float32(scale)),), (0,))

    found = moved(params, before, after, Ptq(kind="ptq", ranges=ranges))

    held = [abs(value) for value in old if abs(value) <= 127 * params.scale[0]]
    assert max(held, default=0.0) <= 127 * found.scale[0] * (1 + 1e-6)


def test_scales_of_a_network_grow_with_brighter_images_and_its_graph_stays(small_net, small_batches):
    artifact = quantize(Artifact(small_net), MINMAX, small_batches)
    before = scales(artifact)

    done, statistics = reestimate(artifact, MINMAX, small_batches, brighter(small_batches, 2))

    after = scales(done)
    assert after["x"] == pytest.approx(2 * before["x"])  # the input itself: twice as bright
    assert all(after[name] > before[name] for name in before)
    assert {name: done.qparams[name].scale[0] for name in after} == after
    changed = [
        init.name
        for init, was in zip(done.model.graph.initializer, artifact.model.graph.initializer, strict=True)
        if init != was
    ]
    assert sorted(changed) == sorted(f"{name}_scale" for name in after)
    assert len(statistics.images) == 8
    assert done.log[-1].startswith(
        "ranges: of 3 activations 3 grew and 0 shrank with the new images, 'x' most, to 2.00"
    )


def test_the_same_images_again_leave_the_bytes_as_they_are(small_artifact, small_batches):
    settings = Ptq(kind="ptq", keep_float=KeepFloat(head=False))

    done, _ = reestimate(small_artifact, settings, small_batches, small_batches)

    assert stored(done) == stored(small_artifact)
    assert done.qparams == small_artifact.qparams


def test_ties_are_kept_where_only_one_of_the_tied_tensors_has_new_values(parsed, small_batches):
    # The second half of `c` is about as large as the first, so that `ptq` ties `ra` and `c`.
    constants = {"wa": (4, 3, 3, 3), "wb": np.full((4, 4, 3, 3), 0.03), "wy": (4, 8, 1, 1)}
    artifact = quantize(Artifact(parsed(JOINED, constants)), MINMAX, small_batches)
    assert tied(artifact) == {"ra": "ra", "c": "ra"}

    done, statistics = reestimate(artifact, MINMAX, small_batches, brighter(small_batches, 3))

    assert scales(done)["ra"] == scales(done)["c"] > scales(artifact)["c"]
    assert scales(done)["c"] == pytest.approx(statistics.tensors["c"].histogram.amax / 127, rel=0.01)
    assert tied(done) == tied(artifact)


def test_what_is_looked_at_is_not_clipped_by_the_ranges_so_far(small_artifact, small_batches):
    settings = Ptq(kind="ptq", ranges="minmax", keep_float=KeepFloat(head=False))
    bright = brighter(small_batches, 50)
    unrounded = open_model(with_outputs(without_qdq(small_artifact.model), ["r"]))

    _, statistics = reestimate(small_artifact, settings, small_batches, bright)

    largest = max(float(unrounded.run(["r"], batch)[0].max()) for batch in bright)
    assert statistics.tensors["r"].histogram.amax == pytest.approx(largest)


def test_a_network_without_quantized_activations_is_refused(small_net, small_batches):
    dynamic = quantize_dynamic(Artifact(small_net), Dynamic(kind="dynamic"))

    with pytest.raises(ModelError, match="update: expected a network whose activations are quantized, got none"):
        reestimate(dynamic, MINMAX, small_batches, small_batches)


def test_only_activations_move(small_artifact, small_batches):
    settings = Ptq(kind="ptq", keep_float=KeepFloat(head=False))
    done, _ = reestimate(replace(small_artifact), settings, small_batches, brighter(small_batches, 4))

    weights = [name for name, params in done.qparams.items() if params.axis is not None]
    assert weights
    assert all(done.qparams[name] == small_artifact.qparams[name] for name in weights)
