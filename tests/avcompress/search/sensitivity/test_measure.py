from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.recipe import Ptq, Segmentation
from avcompress.search.cache import Cache
from avcompress.search.formats import formats_of
from avcompress.search.pool import Here, Processes
from avcompress.search.sensitivity.measure import Material, Metric, measure_sensitivity
from avcompress.spec import Artifact, DataError
from engines.in_memory import open_model

WEIGHT = np.array([[0.9, -0.31], [0.27, 0.5], [-0.44, 0.13]], np.float32)
X = np.array([1.5, -0.5], np.float32)


class Never:
    """A pool that does nothing: whatever asks it has not been cached."""

    def results(self, _work, tasks):
        raise AssertionError(tasks)


def linear() -> onnx.ModelProto:
    """One 1x1 convolution on one pixel: three outputs of two inputs."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1])],
        [numpy_helper.from_array(WEIGHT.reshape(3, 2, 1, 1), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rounded() -> np.ndarray:
    steps = np.abs(WEIGHT).max(axis=1, keepdims=True) / 127
    return np.rint(WEIGHT / steps) * steps


def measured(kind: str, tmp_path: Path) -> float:
    batches = [{"x": X.reshape(1, 2, 1, 1)}]
    formats = formats_of(Artifact(linear()), ["int8 weights"], Ptq(kind="ptq"), batches)
    material = Material(formats, batches, 1, None, (1, 1))
    return measure_sensitivity(kind, material, Cache(tmp_path), Here()).loss("conv", "int8 weights")


def scale() -> float:
    """The square of what an output counts, by its deviation and their number."""
    return 1 / (np.var(WEIGHT @ X) * 3)


def test_the_movement_of_a_linear_layer_is_that_of_its_outputs(tmp_path):
    error = (rounded() - WEIGHT) @ X

    assert measured("output", tmp_path) == pytest.approx(scale() * (error**2).sum(), rel=1e-3)


def test_fisher_of_a_linear_layer_takes_each_weight_for_itself(tmp_path):
    # The gradient of s'y by w_ij is s_i x_j, its square x_j² whatever the signs.
    expected = scale() * ((rounded() - WEIGHT) ** 2 * X**2).sum()

    assert measured("fisher", tmp_path) == pytest.approx(expected, rel=1e-3)


def test_hessian_of_a_linear_layer_is_its_mean_curvature_times_the_squared_error(tmp_path):
    trace = scale() * 3 * (X**2).sum()
    expected = trace / WEIGHT.size * ((rounded() - WEIGHT) ** 2).sum()

    assert measured("hessian", tmp_path) == pytest.approx(expected, rel=1e-3)


def material(formats, images) -> Material:
    return Material(formats, images, 4, Segmentation(kind="segmentation"), (8, 8))


@pytest.mark.parametrize("kind", ["output", "fisher", "hessian"])
def test_fewer_bits_lose_more_and_every_group_is_measured(formats, images, tmp_path, kind):
    made = formats("int8", "fp16")

    found = measure_sensitivity(kind, material(made, images), Cache(tmp_path), Here())

    assert found.images == 4
    assert list(found.losses) == ["first", "left", "last"]
    for group in found.losses:
        assert 0 == found.loss(group, "fp32") < found.loss(group, "fp16") < found.loss(group, "int8")


def test_fisher_is_near_the_movement_that_it_predicts(formats, images, tmp_path):
    made = formats("int8")

    output, fisher = (
        measure_sensitivity(kind, material(made, images), Cache(tmp_path), Here()) for kind in ("output", "fisher")
    )

    for group in output.losses:
        assert 0.2 < fisher.loss(group, "int8") / output.loss(group, "int8") < 5


@pytest.mark.parametrize("kind", ["output", "fisher"])
def test_what_was_measured_is_not_measured_again_unless_the_network_or_the_images_change(
    formats, images, tmp_path, kind
):
    cache, given = Cache(tmp_path), material(formats("int8"), images)
    found = measure_sensitivity(kind, given, cache, Here())

    assert measure_sensitivity(kind, given, cache, Never()) == found
    with pytest.raises(AssertionError):
        measure_sensitivity(kind, replace(given, images=3), cache, Never())
    with pytest.raises(AssertionError):
        measure_sensitivity(kind, replace(given, task=None), cache, Never())


@pytest.mark.slow  # the other process imports all anew
def test_another_process_measures_the_same(formats, images, tmp_path):
    given = material(formats("int8"), images)

    here = measure_sensitivity("output", given, Cache(tmp_path / "here"), Here())

    assert measure_sensitivity("output", given, Cache(tmp_path / "there"), Processes(1)) == here


def test_shifted_activations_are_rounded_about_their_middle(network, images, tmp_path):
    plain, shifted = (
        formats_of(Artifact(network()), ["int8"], Ptq(kind="ptq", activations=how), images)
        for how in ("symmetric", "shifted")
    )

    losses = [
        measure_sensitivity("fisher", material(made, images), Cache(tmp_path), Here()).loss("last", "int8")
        for made in (plain, shifted)
    ]

    # `last` pads, and so is not shifted; what it reads lies on one side of zero all the same.
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_the_metric_of_each_group_is_held_against_the_float_network_s(formats, images, tmp_path):
    made = formats("int8")
    expected = open_model(made.model).run(None, images[0])[0]

    def score(model: onnx.ModelProto) -> float:
        return -float(np.abs(open_model(model).run(None, images[0])[0] - expected).max())

    found = measure_sensitivity("metric", material(made, images), Cache(tmp_path), Here(), Metric(score, "mine", 1))

    assert found.loss("first", "int8") == pytest.approx(-score(made.alone(made.layout.groups[0], "int8")))
    with pytest.raises(DataError, match="expected a metric"):
        measure_sensitivity("metric", material(made, images), Cache(tmp_path), Here())


def test_what_was_not_measured_is_no_loss_of_zero(formats, images, tmp_path):
    found = measure_sensitivity("fisher", material(formats("int8"), images), Cache(tmp_path), Here())

    with pytest.raises(DataError, match="expected what group 'first' loses in fp16"):
        found.loss("first", "fp16")


def test_no_image_is_refused(formats, tmp_path):
    with pytest.raises(DataError, match="at least one image"):
        measure_sensitivity("fisher", material(formats("int8"), []), Cache(tmp_path), Here())
