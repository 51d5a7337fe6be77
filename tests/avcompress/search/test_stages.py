import itertools

import numpy as np
import pytest

from avcompress.quant.apply import apply
from avcompress.recipe import Cast, Ptq
from avcompress.search.stages import stages_for
from avcompress.spec import Artifact
from engines.in_memory import open_model
from engines.planned import planned_layers

NAMES = ("first", "left", "last")


def applied(stages, network, images):
    artifact = Artifact(network)
    for stage in filter(None, stages):
        artifact = apply(stage, artifact, images)
    return artifact.model


@pytest.mark.parametrize("quantized", ["int8", "fp8", "int8 weights"])
def test_the_stages_of_any_assignment_give_each_layer_its_precision(formats, network, images, quantized):
    layout = formats(quantized).layout
    for choice in itertools.product(("fp32", "fp16", quantized), repeat=3):
        assignment = dict(zip(NAMES, choice, strict=True))

        found = planned_layers(applied(stages_for(layout, assignment, Ptq(kind="ptq")), network(), images))

        expected = {layer: assignment[group].replace("fp32", "float") for layer, group in layout.group_of.items()}
        assert {layer.name: layer.precision for layer in found} == expected


def test_the_stages_compute_what_the_search_has_measured(formats, network, images):
    made = formats("int8", "fp16")
    assignment = {"first": "int8", "left": "fp16", "last": "int8"}

    models = made.assigned(assignment), applied(stages_for(made.layout, assignment, Ptq(kind="ptq")), network(), images)

    assert np.array_equal(*(open_model(model).run(None, images[0])[0] for model in models))


def test_an_assignment_of_fp32_alone_quantizes_no_layer_and_casts_none(formats, network, images):
    stages = stages_for(formats("int8").layout, dict.fromkeys(NAMES, "fp32"), Ptq(kind="ptq"))

    assert stages[1] is None
    assert {layer.precision for layer in planned_layers(applied(stages, network(), images))} == {"float"}


def test_a_recipe_s_own_cast_keeps_its_settings_and_is_there_without_a_layer(formats):
    own = Cast(kind="cast", format="bf16", keep_float=("left",))

    _, cast = stages_for(formats("int8").layout, dict.fromkeys(NAMES, "fp32"), Ptq(kind="ptq"), own)

    assert cast == Cast(kind="cast", format="bf16", keep_float=("left", "first", "left", "right", "last"))


def test_the_stages_keep_the_settings_of_ptq_and_name_every_float_layer(formats):
    layout = formats("int8").layout
    settings = Ptq(kind="ptq", ranges="minmax", activations="shifted", rules="cpu")

    ptq, cast = stages_for(layout, {"first": "int8", "left": "fp16", "last": "fp32"}, settings)

    assert isinstance(ptq, Ptq)
    assert (ptq.ranges, ptq.activations, ptq.rules) == ("minmax", "shifted", "cpu")
    assert ptq.keep_float.layers == ("left", "right", "last")
    assert (ptq.keep_float.head, ptq.keep_float.depthwise) == (False, False)
    assert cast == Cast(kind="cast", format="fp16", keep_float=("last",))
