"""avcompress.rewrite.strided_conv: gathered pixels and their convolution against the strided one, by ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from avcompress.rewrite.strided_conv import strided_conv

FAR = 2**31


def gathered(phases, block, together):
    """(nodes, constants) that gather these (row, column) phases of x into `g`, by slices of one or of both axes."""
    nodes, constants, parts = [], {}, []
    for number, (row, column) in enumerate(phases):
        cuts = [((row, column), (2, 3))] if together else [((row,), (2,)), ((column,), (3,))]
        tensor = "x"
        for step, (starts, axes) in enumerate(cuts):
            names = [f"{kind}{number}_{step}" for kind in ("start", "end", "axis", "step")]
            values = (starts, [FAR] * len(axes), axes, [block] * len(axes))
            constants |= {name: np.array(value, np.int64) for name, value in zip(names, values, strict=True)}
            output = f"s{number}_{step}"
            nodes.append(helper.make_node("Slice", [tensor, *names], [output], name=output))
            tensor = output
        parts.append(tensor)
    nodes.append(helper.make_node("Concat", parts, ["g"], name="gather", axis=1))
    return nodes, constants


def conv(weight, **attributes):
    return helper.make_node("Conv", ["g", "w"], ["y"], name="conv", **attributes), {"w": weight.astype(np.float32)}


@pytest.fixture
def focus(graph):
    """A focus layer on an image of 3 channels, then a convolution."""

    def make(phases, block, weight, together=False, shape=(1, 3, 12, 12), **attributes):
        nodes, constants = gathered(phases, block, together)
        node, weights = conv(weight, **attributes)
        return graph([*nodes, node], {**constants, **weights}, shape)

    return make


def test_a_kernel_of_one_pixel_becomes_one_of_a_block(focus):
    weight = np.arange(12.0).reshape(1, 12, 1, 1)
    change = strided_conv(focus([(0, 0), (1, 0), (0, 1), (1, 1)], 2, weight), lambda _: True)

    (node,), (tensor,) = change.network.graph.node, change.network.graph.initializer
    assert change.nodes == ("conv",)
    assert node.input[0] == "x"
    assert {a.name: list(a.ints) for a in node.attribute} == {
        "kernel_shape": [2, 2],
        "strides": [2, 2],
        "pads": [0, 0, 0, 0],
    }
    # Of the first channel: the four phases' weights, at their rows and columns.
    found = np.frombuffer(tensor.raw_data, np.float32).reshape(1, 3, 2, 2)[0, 0]
    np.testing.assert_array_equal(found, [[0, 6], [3, 9]])


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_strided_convolution_gives_the_same(focus, answers, data):
    block = data.draw(st.sampled_from([2, 3]))
    phases = data.draw(st.permutations([(row, column) for row in range(block) for column in range(block)]))
    kernel = data.draw(st.integers(1, 3))
    pads = [data.draw(st.integers(0, 1)) for _ in range(4)]
    weight = np.random.default_rng(0).standard_normal((4, 3 * block**2, kernel, kernel))
    network = focus(
        phases,
        block,
        weight,
        data.draw(st.booleans()),
        pads=pads,
        strides=[data.draw(st.integers(1, 2)), 1],
        kernel_shape=[kernel, kernel],
    )

    change = strided_conv(network, lambda _: True)

    assert [node.op_type for node in change.network.graph.node] == ["Conv"]
    np.testing.assert_allclose(answers(change.network)[0], answers(network)[0], atol=2e-5)


def test_space_to_depth_is_gathering_too(graph, answers):
    node, weights = conv(np.random.default_rng(0).standard_normal((2, 12, 3, 3)), pads=[1, 1, 1, 1])
    network = graph([helper.make_node("SpaceToDepth", ["x"], ["g"], name="s", blocksize=2), node], weights)

    change = strided_conv(network, lambda _: True)

    assert [node.op_type for node in change.network.graph.node] == ["Conv"]
    np.testing.assert_allclose(answers(change.network)[0], answers(network)[0], atol=2e-5)


ALL = [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("phases", "attributes", "shape"),
    [
        pytest.param(ALL[:3], {}, (1, 3, 12, 12), id="a pixel is left out"),
        pytest.param([*ALL[:3], (0, 0)], {}, (1, 3, 12, 12), id="a pixel is taken twice"),
        pytest.param(ALL, {"dilations": [2, 2]}, (1, 3, 12, 12), id="dilated"),
        pytest.param(ALL, {"auto_pad": "SAME_UPPER"}, (1, 3, 12, 12), id="padding is not stated"),
    ],
)
def test_what_is_no_whole_gathering_of_an_image_stays(focus, phases, attributes, shape):
    network = focus(phases, 2, np.ones((1, 3 * len(phases), 1, 1)), shape=shape, **attributes)

    assert strided_conv(network, lambda _: True) == (network, (), {})


def test_a_gathering_that_others_read_stays_for_them(graph, answers):
    nodes, constants = gathered(ALL, 2, False)
    node, weights = conv(np.ones((12, 12, 1, 1)))
    network = graph(
        [*nodes, node, helper.make_node("Add", ["y", "g"], ["z"], name="add")], {**constants, **weights}, (1, 3, 8, 8)
    )

    change = strided_conv(network, lambda _: True)

    assert change.nodes == ("conv",)
    np.testing.assert_allclose(answers(change.network)[0], answers(network)[0], atol=2e-5)
