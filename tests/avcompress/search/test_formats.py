import numpy as np
import pytest

from avcompress.search.assignment import kinds_of, share_of_macs
from avcompress.search.groups import OUTSIDE
from avcompress.spec import RecipeError
from engines.in_memory import open_model
from engines.planned import planned_layers
from engines.qdq import qdq_sites


def precisions(model):
    return {layer.name: layer.precision for layer in planned_layers(model)}


def test_a_group_may_take_what_all_its_layers_can_be_computed_in(formats):
    made = formats("int8", "fp16", "int8 weights")

    assert [group.name for group in made.layout.groups] == ["first", "left", "last"]
    assert set(made.choices.values()) == {("fp32", "fp16", "int8", "int8 weights")}


@pytest.mark.parametrize("precision", ["int8", "fp8", "fp16", "bf16", "int8 weights"])
def test_alone_in_a_precision_a_group_has_it_and_no_other_does(formats, precision):
    made = formats(precision)

    for group in made.layout.groups:
        found = precisions(made.alone(group, precision))
        assert {layer for layer, own in found.items() if own == precision} == set(group.layers)
        assert {own for layer, own in found.items() if layer not in group.layers} == {"float"}


def test_the_skip_of_an_addition_goes_with_the_layer_that_computes_it(formats):
    made = formats("int8")
    by_name = {group.name: group for group in made.layout.groups}

    skips = {
        name: [s for s in qdq_sites(made.alone(g, "int8")) if ("add", 0) in s.edges or ("add", 1) in s.edges]
        for name, g in by_name.items()
    }

    assert {name: len(found) for name, found in skips.items()} == {"first": 0, "left": 1, "last": 0}


def test_an_assignment_is_the_network_with_each_layer_in_its_precision(formats):
    made = formats("int8", "fp16")

    found = precisions(made.assigned({"first": "fp16", "left": "int8", "last": "fp32"}))

    assert found == {"first": "fp16", "left": "int8", "right": "int8", "last": "float"}


def test_all_in_int8_is_what_ptq_makes_and_all_in_fp32_is_the_float_network(formats, images):
    made = formats("int8")
    names = [group.name for group in made.layout.groups]

    int8 = made.assigned(dict.fromkeys(names, "int8"))

    outputs = [open_model(model).run(None, images[0])[0] for model in (int8, made.quantized["int8"].model)]
    assert np.array_equal(*outputs)
    assert made.assigned(dict.fromkeys(names, "fp32")) == made.model


def test_the_weights_of_a_precision_are_the_rounded_ones(formats):
    made = formats("int8", "fp16")
    weight = made.weights("fp32")["first.weight"]

    assert np.array_equal(made.weights("fp16")["first.weight"], weight.astype(np.float16).astype(np.float32))
    steps = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    assert np.allclose(made.weights("int8")["first.weight"], np.rint(weight / steps) * steps, atol=1e-6)


def test_several_quantized_precisions_are_refused():
    assert kinds_of({"a": "int8", "b": "fp16", "c": "fp32"}) == ("int8", "fp16")
    assert kinds_of({"a": "fp32"}) == (None, None)
    with pytest.raises(RecipeError, match="expected one of int8 and fp8 beside fp32, got both"):
        kinds_of({"a": "int8", "b": "fp8"})


def test_the_share_of_macs_counts_groups(formats):
    layout = formats("int8").layout
    macs = {group.name: group.macs for group in layout.groups}

    share = share_of_macs(layout, {"first": "int8", "left": "fp32", "last": "int8"}, "int8")

    assert share == pytest.approx((macs["first"] + macs["last"]) / sum(macs.values()))
    assert OUTSIDE not in macs
