"""A user's own scores, and the checks that all scores go through."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.prune import Channel, Coupling, Group, Place
from avcompress.prune.importance import check_scores, given, read_scores
from avcompress.spec import DataError, ModelError

FIRST = [[1, -2], [0, 3], [4, 0]]
SECOND = [[1, 1, -1], [0, 2, 0]]


def test_numbers_for_the_outputs_of_a_layer_are_those_of_its_channels(chain, coupling, tmp_path):
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"first": [3, 1.5, 0]}))

    scores = given(chain(FIRST, SECOND), coupling(3), read_scores(file))

    assert scores.keys() == {"first"}
    assert scores["first"].dtype == np.float64
    assert list(scores["first"]) == [3, 1.5, 0]


def test_groups_that_are_not_named_have_no_scores(chain, coupling):
    assert given(chain(FIRST, SECOND), coupling(3), {}) == {}


def test_a_layer_before_a_split_gives_each_of_its_groups_its_part(chain):
    """Channels 0 and 1 of the first layer are one group, 2 and 3 another, as before a split."""
    groups = tuple(
        Group(name, ("first",), ("second",), tuple(Channel((Place("first.weight", 0, (i,)),)) for i in own))
        for name, own in (("first", (0, 1)), ("first#2", (2, 3)))
    )
    coupled, network = Coupling(groups, (), {}, {}, {}), chain(np.ones((4, 2)), np.ones((2, 4)))

    by_layer = given(network, coupled, {"first": [1, 2, 3, 4]})
    by_group = given(network, coupled, {"first#2": [3, 4]})

    assert {name: list(values) for name, values in by_layer.items()} == {"first": [1, 2], "first#2": [3, 4]}
    assert {name: list(values) for name, values in by_group.items()} == {"first#2": [3, 4]}


def test_layers_that_are_added_to_each_other_add_their_scores(chain):
    group = Group(
        "first",
        ("first", "second"),
        (),
        tuple(Channel((Place("first.weight", 0, (i,)), Place("second.weight", 0, (i,)))) for i in range(2)),
    )
    coupled, network = Coupling((group,), (), {}, {}, {}), chain(np.ones((2, 2)), np.ones((2, 2)))

    assert list(given(network, coupled, {"first": [1, 2], "second": [10, 20]})["first"]) == [11, 22]
    assert list(given(network, coupled, {"second": [10, 20]})["first"]) == [10, 20]


def test_outputs_of_a_transposed_convolution_are_counted_over_its_groups():
    """Two groups of two outputs each: channel j is output j of both."""
    weight = numpy_helper.from_array(np.ones((4, 2, 1, 1), np.float32), "up.weight")
    node = helper.make_node("ConvTranspose", ["x", "up.weight"], ["y"], name="up", group=2)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 3, 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(network)
    channels = tuple(Channel((Place("up.weight", 1, (i,)),)) for i in range(2))
    coupled = Coupling((Group("up", ("up",), (), channels),), (), {}, {}, {})

    assert list(given(network, coupled, {"up": [1, 2, 10, 20]})["up"]) == [11, 22]


@pytest.mark.parametrize(
    ("by_layer", "message"),
    [
        ({"frist": [1]}, r"got 'frist'; the nearest are first"),
        ({"second": [1, 2]}, r"got 'second', which cannot: it is an output of the network; leave it out"),
        ({"first": [1, 2]}, r"expected 3 scores of layer 'first', one for each output channel, got 2"),
        (
            {"first": [1, 2, float("nan")]},
            r"expected finite scores of 0 or above of layer 'first', got nan at channel 2",
        ),
        ({"first": [1, -2, 3]}, r"layer 'first', got -2.0 at channel 1"),
    ],
)
def test_scores_that_do_not_fit_name_the_layer(chain, coupling, by_layer, message):
    with pytest.raises(ModelError, match=message):
        given(chain(FIRST, SECOND), coupling(3), by_layer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "expected a JSON file of scores, got JSONDecodeError"),
        ("[1, 2]", "expected an object of layers, got a list"),
        ('{"first": [1, "2"]}', r"expected a list of numbers for layer 'first', got \[1, '2'\]"),
        ('{"first": 1}', "expected a list of numbers for layer 'first', got 1"),
    ],
)
def test_a_file_of_anything_else_is_told(tmp_path, text, message):
    file = tmp_path / "scores.json"
    file.write_text(text)

    with pytest.raises(DataError, match=message):
        read_scores(file)


def test_scores_of_another_network_are_told(coupling):
    with pytest.raises(ModelError, match=r"expected 3 scores of layer 'first', one for each channel, got \(4,\)"):
        check_scores(coupling(3), {"first": np.ones(4)})
    with pytest.raises(ModelError, match=r"expected scores of groups of this network, got some of 'other'"):
        check_scores(coupling(3), {"other": np.ones(3)})
