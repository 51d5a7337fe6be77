"""avcompress.quant.placement.policy: the rules, each on a graph that a reader can hold in mind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.quant.placement.policy import WEIGHTED, GraphView, Op, Weight, place
from avcompress.recipe import KeepFloat
from avcompress.spec import RecipeError

NOTHING_KEPT = KeepFloat(head=False, depthwise=False)
INT8 = "input and weight are quantized"
HEAD = "head: a last layer before an output (keep_float.head)"
DEPTHWISE = "depthwise: no faster in INT8 on TensorRT, and it loses accuracy"


def conv(name, source, **kwargs):
    weight = kwargs.pop("weight", Weight(f"{name}.w", 1, 0))
    inputs = (source, weight.tensor if weight else f"{name}.dynamic")
    return Op(name, kwargs.pop("kind", "Conv"), inputs, (f"{name}.out",), weight, **kwargs)


def op(kind, *inputs, name=None):
    name = name or kind.lower()
    return Op(name, kind, inputs, (f"{name}.out",))


def view(*ops, outputs=None, constants=()):
    weights = {o.weight.tensor for o in ops if o.weight}
    return GraphView(ops, outputs or (ops[-1].outputs[0],), frozenset(weights | set(constants)))


def reasons(graph, keep=NOTHING_KEPT, rules="tensorrt"):
    return {layer.name: layer.reason for layer in place(graph, keep, rules).layers}


def heads(graph):
    return {name for name, reason in reasons(graph, KeepFloat()).items() if reason == HEAD}


def sites(graph, keep=NOTHING_KEPT):
    return {site.tensor: site.edges for site in place(graph, keep).activations}


def test_the_inputs_of_a_weighted_layer_are_quantized_and_its_output_is_not():
    placement = place(view(conv("a", "x"), op("Relu", "a.out"), conv("b", "relu.out")), NOTHING_KEPT)

    assert [(s.tensor, s.edges, s.axis) for s in placement.activations] == [
        ("x", (("a", 0),), None),
        ("relu.out", (("b", 0),), None),
    ]
    assert [(s.tensor, s.edges, s.axis) for s in placement.weights] == [
        ("a.w", (("a", 1),), 0),
        ("b.w", (("b", 1),), 0),
    ]


def test_a_tensor_has_one_site_for_all_its_uses():
    graph = view(conv("a", "x"), conv("b", "x"), op("Concat", "a.out", "b.out"))

    assert sites(graph) == {"x": (("a", 0), ("b", 0))}


def test_a_shared_weight_has_one_site():
    shared = Weight("w", 1, 0)
    placement = place(view(conv("a", "x", weight=shared), conv("b", "a.out", weight=shared)), NOTHING_KEPT)

    assert [(s.tensor, s.edges) for s in placement.weights] == [("w", (("a", 1), ("b", 1)))]


def test_a_weight_shared_on_two_axes_is_quantized_for_the_first():
    graph = view(
        conv("a", "x", kind="Gemm", weight=Weight("w", 1, 0)),
        conv("b", "a.out", kind="MatMul", weight=Weight("w", 1, 1)),
    )

    assert reasons(graph) == {
        "a": INT8,
        "b": "weight shared with a layer that has its output channels on another axis",
    }


# --- what stays float


def test_the_last_weighted_layers_before_every_output_are_the_head():
    graph = view(
        conv("stem", "x"),
        conv("boxes", "stem.out"),
        conv("tower", "stem.out"),
        conv("scores", "tower.out"),
        op("Sigmoid", "scores.out"),
        op("Concat", "boxes.out", "sigmoid.out"),
    )

    assert heads(graph) == {"boxes", "scores"}
    assert set(reasons(graph, KeepFloat(head=False)).values()) == {INT8}


def test_a_layer_whose_shape_alone_reaches_the_output_is_no_head():
    graph = view(
        conv("early", "x"), op("Shape", "early.out"), conv("late", "early.out"), op("Reshape", "late.out", "shape.out")
    )

    assert reasons(graph, KeepFloat())["early"] == INT8


def test_an_attention_product_is_a_weighted_layer_without_a_weight():
    graph = view(conv("q", "x"), conv("k", "x"), op("MatMul", "q.out", "k.out"), conv("head", "matmul.out"))

    assert reasons(graph, KeepFloat()) == {
        "q": INT8,
        "k": INT8,
        "matmul": "no constant weight: a product of two activations, as in attention",
        "head": HEAD,
    }


def test_layers_that_cannot_be_int8_say_why():
    graph = view(
        conv("up", "x", kind="ConvTranspose", weight=Weight("up.w", 1, 1)),
        conv("half", "up.out", obstacle="weight of type FLOAT16"),
        conv("dynamic", "half.out", weight=None),
        conv("fixed", "k"),
        constants=("k",),
    )

    assert reasons(graph) == {
        "up": "transposed convolution: computed in FP16 by TensorRT",
        "half": "weight of type FLOAT16",
        "dynamic": "no constant weight: a product of two activations, as in attention",
        "fixed": "its input is constant",
    }
    assert sites(graph) == {}


@pytest.mark.parametrize(
    ("rules", "asked", "reason"),
    [
        ("tensorrt", None, DEPTHWISE),
        ("tensorrt", True, "depthwise (keep_float.depthwise)"),
        ("tensorrt", False, INT8),
        ("cpu", None, INT8),
        ("cpu", True, "depthwise (keep_float.depthwise)"),
        ("cpu", False, INT8),
    ],
)
def test_depthwise_convolutions_go_by_the_target_unless_the_recipe_says_otherwise(rules, asked, reason):
    graph = view(conv("dw", "x", depthwise=True), conv("pw", "dw.out"))

    assert reasons(graph, KeepFloat(head=False, depthwise=asked), rules)["dw"] == reason


def test_transposed_convolutions_are_int8_on_the_cpu_where_they_have_one_group():
    kinds = {"kind": "ConvTranspose"}
    graph = view(
        conv("up", "x", weight=Weight("up.w", 1, 1), **kinds),
        conv("by_channel", "up.out", weight=Weight("by_channel.w", 1, 1), groups=8, **kinds),
    )

    assert reasons(graph, NOTHING_KEPT, "cpu") == {
        "up": INT8,
        "by_channel": "transposed convolution: computed in FP32 by OpenVINO",
    }


def test_narrow_convolutions_stay_float_where_the_recipe_asks_for_it():
    graph = view(
        conv("first", "x", channels=(3, 8)),
        conv("wide", "first.out", channels=(16, 16)),
        conv("narrow_in", "wide.out", channels=(8, 32)),
        conv("narrow_out", "narrow_in.out", channels=(32, 8)),
        conv("grouped", "narrow_out.out", channels=(32, 32), groups=4),
        conv("dw", "grouped.out", channels=(32, 32), groups=32, depthwise=True),
        conv("unknown", "dw.out"),
        conv("product", "unknown.out", kind="Gemm", channels=(8, 8)),
    )
    keep = KeepFloat(head=False, depthwise=False, small_channels=16)

    assert {name for name, reason in reasons(graph, keep).items() if reason != INT8} == {
        *("narrow_in", "narrow_out", "grouped")
    }
    assert reasons(graph, keep)["grouped"] == "fewer than 16 channels (keep_float.small_channels)"
    assert set(reasons(graph).values()) == {INT8}


@pytest.mark.parametrize("pattern", ["neck.*", "neck.w", "*.out", "n[e]ck"])
def test_a_pattern_matches_a_node_its_weight_or_its_output(pattern):
    keep = KeepFloat(head=False, depthwise=False, layers=(pattern,))

    assert reasons(view(conv("stem", "x"), conv("neck", "stem.out")), keep)["neck"] == (
        f"named by keep_float.layers: {pattern!r}"
    )


def test_a_pattern_that_matches_nothing_names_what_is_near():
    keep = KeepFloat(layers=("*backbone.stem.cnv*",))
    graph = view(conv("backbone.stem.conv", "x"), conv("head", "backbone.stem.conv.out"))

    with pytest.raises(RecipeError, match=r"got '\*backbone\.stem\.cnv\*'; the nearest names are backbone\.stem\.conv"):
        place(graph, keep)


def test_layers_are_in_graph_order_with_their_macs():
    layers = place(view(conv("b", "x", macs=7), conv("a", "b.out", macs=5)), KeepFloat()).layers

    assert [(layer.name, layer.op, layer.precision, layer.macs) for layer in layers] == [
        ("b", "Conv", "int8", 7),
        ("a", "Conv", "float", 5),
    ]


# --- residual additions


def silu(name, source):
    gate = op("Sigmoid", source, name=f"{name}.gate")
    return gate, op("Mul", source, gate.outputs[0], name=name)


def test_the_skip_of_an_identity_block_is_quantized_and_shares_the_site_of_the_convolution():
    graph = view(
        conv("stem", "x"),
        *silu("s", "stem.out"),
        conv("a", "s.out"),
        conv("b", "a.out"),
        *silu("t", "b.out"),
        op("Add", "t.out", "s.out"),
    )

    assert sites(graph)["s.out"] == (("a", 0), ("add", 1))
    assert "t.out" not in sites(graph)


@pytest.mark.parametrize("swapped", [False, True])
def test_in_a_downsampling_block_the_longer_side_is_fused(swapped):
    inputs = ("skip.out", "b.out") if swapped else ("b.out", "skip.out")
    graph = view(
        conv("stem", "x"), conv("a", "stem.out"), conv("b", "a.out"), conv("skip", "stem.out"), op("Add", *inputs)
    )

    assert sites(graph)["skip.out"] == (("add", inputs.index("skip.out")),)
    assert "b.out" not in sites(graph)


def test_normalization_and_decomposed_activations_are_passed_through():
    graph = view(
        conv("a", "x"),
        op("BatchNormalization", "a.out", "k", "k", "k", "k", name="bn"),
        op("Add", "bn.out", "k", name="plus3"),
        op("Clip", "plus3.out", "k", "k"),
        op("Mul", "bn.out", "clip.out", name="hardswish"),
        op("Add", "x", "hardswish.out"),
        constants=("k",),
    )

    assert sites(graph) == {"x": (("a", 0), ("add", 0))}


def test_nothing_is_added_where_no_convolution_can_take_the_addition():
    relu = op("Relu", "x")
    for ops in (
        (conv("a", "x", depthwise=True), op("Add", "a.out", "x")),  # a float convolution
        (conv("a", "x"), op("MaxPool", "a.out"), op("Add", "maxpool.out", "x")),  # something between
        (conv("a", "x"), op("Add", "a.out", "k")),  # a constant
        (conv("a", "x"), op("Add", "a.out", "a.out")),  # twice the same
        (conv("a", "x"), op("Relu", "a.out"), op("Add", "a.out", "relu.out")),  # one convolution on both sides
        (relu, op("Add", "relu.out", "x")),
    ):
        edges = sites(view(*ops, constants=("k",)), KeepFloat(head=False))
        assert not any(name == "add" for uses in edges.values() for name, _ in uses)


def test_a_squeeze_and_excite_product_is_no_activation():
    graph = view(
        conv("a", "x"),
        op("GlobalAveragePool", "a.out", name="pool"),
        op("Sigmoid", "pool.out"),
        op("Mul", "a.out", "sigmoid.out"),
        op("Add", "mul.out", "x"),
    )

    assert sites(graph) == {"x": (("a", 0),)}


@st.composite
def graphs(draw):
    ops = []
    tensors = ["x"]
    for i in range(draw(st.integers(1, 12))):
        kind = draw(
            st.sampled_from(["Conv", "ConvTranspose", "MatMul", "Add", "Mul", "Relu", "Sigmoid", "Concat", "MaxPool"])
        )
        source, other = draw(st.sampled_from(tensors)), draw(st.sampled_from(tensors))
        if kind in WEIGHTED:
            ops.append(conv(f"n{i}", source, kind=kind, depthwise=draw(st.booleans())))
        else:
            ops.append(
                op(kind, *((source,) if kind in {"Relu", "Sigmoid", "MaxPool"} else (source, other)), name=f"n{i}")
            )
        tensors.append(ops[-1].outputs[0])
    return view(*ops)


@given(graph=graphs(), head=st.booleans(), depthwise=st.booleans())
def test_any_graph_is_placed_by_the_rules(graph, head, depthwise):
    placement = place(graph, KeepFloat(head=head, depthwise=depthwise))

    by_name = {o.name: o for o in graph.ops}
    int8 = {layer.name for layer in placement.layers if layer.precision == "int8"}
    edges = [(site.tensor, edge) for site in placement.activations for edge in site.edges]
    assert [layer.name for layer in placement.layers] == [o.name for o in graph.ops if o.kind in WEIGHTED]
    assert {name for _, (name, _) in edges if by_name[name].kind in WEIGHTED} == int8
    assert all(by_name[name].kind in WEIGHTED | {"Add", "Sum"} for _, (name, _) in edges)
    assert all(by_name[name].inputs[index] == tensor for tensor, (name, index) in edges)
    assert len({edge for _, edge in edges}) == len(edges)
    assert len({site.tensor for site in placement.activations}) == len(placement.activations)
    assert all((layer.precision == "int8") == (layer.reason == INT8) for layer in placement.layers)
