import pytest
from onnx import helper

from avcompress.spec import EngineBuildError, RecipeError
from engines.tensorrt.optimization import check_profiles, graph_shapes, parse_profile
from engines.tensorrt.settings import InputShapes

GRAPH = {"images": ("n", 3, "h", "w"), "mask": ("n", 1), "scale": (1,)}


def check(text, static=False, graph=GRAPH):
    check_profiles("net.onnx", graph, [parse_profile(each) for each in text], static)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("images:1x3x416x416", [(1, 3, 416, 416)] * 3),
        ("images:1x3x32x32, images:1x3x64x64, images:4x3x64x64", [(1, 3, 32, 32), (1, 3, 64, 64), (4, 3, 64, 64)]),
    ],
)
def test_one_shape_or_three_are_read(text, shapes):
    assert parse_profile(text) == {"images": InputShapes(minimum=shapes[0], optimum=shapes[1], maximum=shapes[2])}


def test_names_may_hold_colons_and_inputs_may_be_mixed():
    profile = parse_profile("input:0:1x2,b:3,input:0:2x2,input:0:3x2")

    assert profile["input:0"] == InputShapes(minimum=(1, 2), optimum=(2, 2), maximum=(3, 2))
    assert profile["b"].optimum == (3,)


@pytest.mark.parametrize(
    "text", ["", "images", "images:", ":1x3", "images:1x-1", "images:0x3", "images:1x3x", "a:1,,b:2"]
)
def test_what_is_no_shape_is_refused_with_an_example(text):
    with pytest.raises(RecipeError, match="write images:1x3x416x416"):
        parse_profile(text)


def test_two_shapes_of_one_input_are_neither_one_nor_three():
    with pytest.raises(RecipeError, match="input 'a': expected one shape, or three"):
        parse_profile("a:1,a:2")


def test_shapes_that_fit_pass():
    check(["images:1x3x32x32,images:2x3x64x64,images:4x3x64x64,mask:1x1,mask:2x1,mask:4x1"])
    check(["images:1x3x32x32,mask:1x1,scale:1", "images:2x3x32x32,mask:2x1"])


def test_a_static_graph_needs_no_shapes():
    check([], graph={"x": (1, 3)})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ([], "dynamic inputs images (nx3xhxw), mask (nx1), got none; give --shapes, as images:1x3x640x640"),
        (["images:1x3x32x32,mask:1x1,image:1x3"], "expected inputs of the graph (images, mask, scale), got 'image'"),
        (["images:1x3x32x32"], "expected shapes for 'mask' too"),
        (["images:1x3x32,mask:1x1"], "input 'images': expected a shape that fits nx3xhxw, got 1x3x32"),
        (["images:1x4x32x32,mask:1x1"], "input 'images': expected a shape that fits nx3xhxw, got 1x4x32x32"),
        (["images:1x3x32x32,mask:1x1,scale:2"], "input 'scale': expected a shape that fits 1, got 2"),
        (
            ["images:1x3x64x64,images:1x3x32x64,images:1x3x64x64,mask:1x1"],
            "expected smallest <= optimum <= largest in every dimension, got 1x3x64x64 .. 1x3x32x64 .. 1x3x64x64",
        ),
        (["images:2x3x32x32,mask:1x1"], "dimension 'n': expected one size in all inputs, got (2, 2, 2) in 'images'"),
        (["images:1x3x32x32,mask:1x1", "images:1x3x9x9"], "--shapes number 2: expected shapes for 'mask' too"),
    ],
)
def test_what_does_not_fit_the_graph_is_refused_by_name(text, part):
    with pytest.raises(EngineBuildError) as caught:
        check(text)

    assert caught.value.stage == "profile"
    assert part in str(caught.value)


def test_dla_wants_one_shape():
    with pytest.raises(EngineBuildError, match="DLA takes no dynamic ones"):
        check(["images:1x3x32x32,images:1x3x64x32,images:1x3x64x32,mask:1x1"], static=True)
    check(["images:1x3x32x32,mask:1x1"], static=True)


def test_the_shapes_of_a_graph_are_numbers_and_names(network):
    node = helper.make_node("Relu", ["x"], ["y"])

    assert graph_shapes(network([node], {"x": ("n", 3, None)}, {"y": ("n", 3, None)}, {})) == {"x": ("n", 3, "")}
