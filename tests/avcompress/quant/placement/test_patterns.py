"""avcompress.quant.placement.policy: building blocks of real networks, each reduced to the operators that matter."""

import pytest

from avcompress.quant.placement.policy import WEIGHTED, GraphView, Op, Weight, place
from avcompress.recipe import KeepFloat

ALL_INT8 = KeepFloat(head=False, depthwise=False)
INT8 = "input and weight are quantized"
SE = "squeeze-and-excite: its error would scale whole channels, for next to no MACs"
DECODING = "box decoding: the mean of a softmax"
PRODUCT = "no constant weight: a product of two activations, as in attention"


def op(line, **fields):
    """An operator from `Kind name: input input`; a weighted one has a constant weight unless it says otherwise."""
    head, _, inputs = line.partition(":")
    kind, name = head.split()
    sources = tuple(inputs.split())
    if kind in WEIGHTED and len(sources) == 1:
        weight = Weight(f"{name}.w", 1, 1 if kind in {"ConvTranspose", "MatMul"} else 0)
        return Op(name, kind, (*sources, weight.tensor), (name,), weight, **fields)
    return Op(name, kind, sources, (name,), **fields)


def net(*lines, outputs=()):
    """A network from lines of operators; what is called k is constant, and an operator's output has its name."""
    ops = tuple(op(line) if isinstance(line, str) else line for line in lines)
    constants = {o.weight.tensor for o in ops if o.weight} | {"k"}
    return GraphView(ops, tuple(outputs) or ops[-1].outputs, frozenset(constants))


def reasons(graph, keep=ALL_INT8, rules="tensorrt"):
    return {layer.name: layer.reason for layer in place(graph, keep, rules).layers}


def floats(graph, keep=ALL_INT8, rules="tensorrt"):
    return {name: reason for name, reason in reasons(graph, keep, rules).items() if reason != INT8}


def heads(graph):
    return {name for name, reason in reasons(graph, KeepFloat()).items() if "keep_float.head" in reason}


def sites(graph, keep=ALL_INT8):
    return {site.tensor: [f"{name}:{index}" for name, index in site.edges] for site in place(graph, keep).activations}


# --- convolution, normalization, activation


@pytest.mark.parametrize(
    "activation",
    [
        ("Relu act: c",),
        ("Clip act: c k k",),  # ReLU6
        ("LeakyRelu act: c",),
        ("HardSwish act: c",),
        ("Sigmoid g: c", "Mul act: c g"),  # SiLU
        ("HardSigmoid g: c", "Mul act: c g"),  # HardSwish
        ("Add p: c k", "Clip r: p k k", "Div s: r k", "Mul act: c s"),  # HardSwish as exporters spell it
        ("Add p: c k", "Clip r: p k k", "Mul m: c r", "Mul act: m k"),
        ("Softplus s: c", "Tanh t: s", "Mul act: c t"),  # Mish
        ("BatchNormalization n: c k k k k", "Relu act: n"),
        ("Relu r: c", "Mul act: r k"),  # an explicit scale per channel belongs to the kernel before it
    ],
    ids=lambda lines: " ".join(line.split()[0] for line in lines),
)
def test_nothing_stands_between_a_convolution_and_its_activation(activation):
    block = net("Conv c: x", *activation, "Conv d: act")
    residual = net("Conv stem: x", "Relu r0: stem", "Conv c: r0", *activation, "Add sum: act r0", "Conv d: sum")

    assert sites(block) == {"x": ["c:0"], "act": ["d:0"]}
    assert sites(residual) == {"x": ["stem:0"], "r0": ["c:0", "sum:1"], "sum": ["d:0"]}


# --- residual additions


def test_in_a_chain_of_blocks_each_skip_is_quantized_once():
    graph = net(
        "Conv stem: x",
        "MaxPool p: stem",
        *("Conv a1: p", "Relu ra: a1", "Conv a2: ra", "Add sa: a2 p", "Relu a: sa"),
        *("Conv b1: a", "Relu rb: b1", "Conv b2: rb", "Add sb: a b2", "Relu b: sb"),
        "Conv next: b",
    )

    assert sites(graph) == {
        "x": ["stem:0"],
        "p": ["a1:0", "sa:1"],
        "ra": ["a2:0"],
        "a": ["b1:0", "sb:0"],
        "rb": ["b2:0"],
        "b": ["next:0"],
    }


def test_a_projected_shortcut_is_quantized_and_the_longer_side_fused():
    graph = net("Conv stem: x", "Conv short: stem", "Conv a: stem", "Relu r: a", "Conv b: r", "Add sum: short b")

    assert sites(graph) == {"x": ["stem:0"], "stem": ["short:0", "a:0"], "r": ["b:0"], "short": ["sum:0"]}


@pytest.mark.parametrize("other", ["x", "y"])
def test_branches_from_the_inputs_of_the_network_are_added_as_others_are(other):
    graph = net("Conv a: x", f"Conv b: {other}", "Conv c: b", "Add sum: a c")

    assert sites(graph)["a"] == ["sum:0"]
    assert "c" not in sites(graph)


def test_before_an_activation_that_comes_first_the_skip_is_quantized_of_its_own():
    graph = net(
        "Conv stem: x",
        *("BatchNormalization n1: stem k k k k", "Relu r1: n1", "Conv a: r1"),
        *("BatchNormalization n2: a k k k k", "Relu r2: n2", "Conv b: r2"),
        "Add sum: b stem",
    )

    assert sites(graph) == {"x": ["stem:0"], "r1": ["a:0"], "r2": ["b:0"], "stem": ["sum:1"]}


def test_a_convolution_that_others_need_too_takes_no_addition():
    """ConvNeXt: what is added to the only convolution comes from it; the addition waits for that, not the reverse."""
    shared = net("Conv c: x", "Relu r: c", "LayerNormalization n: c k k", "Add sum: c n", "Conv d: sum")
    inner = net("Conv a: x", "Relu r: a", "MaxPool p: a", "Add sum: r p", "Conv d: sum")
    shown = net("Conv a: x", "Relu r: a", "Add sum: r x", outputs=("sum", "r"))

    for graph in (shared, inner, shown):
        assert not any("sum" in edge for uses in sites(graph).values() for edge in uses)


def test_of_two_convolutions_the_one_that_only_the_addition_uses_is_fused():
    """ESPNet adds up branches that it also concatenates."""
    graph = net("Conv r: x", "Conv a: r", "Conv b: r", "Add ab: a b", "Concat c: a ab")

    assert sites(graph)["a"] == ["ab:0"]
    assert "b" not in sites(graph)


def test_a_matrix_product_takes_no_residual_addition():
    graph = net("LayerNormalization n: x k k", "MatMul fc: n", "Add bias: fc k", "Add sum: bias x", "MatMul out: sum")

    assert sites(graph) == {"n": ["fc:0"], "sum": ["out:0"]}


# --- attention

SPLIT = "query, key and value in one: TensorRT-RTX computes it in float"
SOFTMAX = ("Mul scaled: qk k", "Softmax s: scaled", "MatMul av: s v", "MatMul out: av")


@pytest.mark.parametrize(
    "split",
    [
        ("Reshape r: bias k", "Transpose t: r", "Gather q: t k", "Gather key: t k", "Gather v: t k"),
        ("Slice q: bias k k", "Slice key: bias k k", "Slice v: bias k k"),
        ("Split q: bias k", "Split key: bias k", "Reshape v: key k"),
    ],
    ids=["gather", "slice", "split"],
)
def test_a_product_that_is_split_into_the_operands_of_attention_stays_float_on_tensorrt(split):
    graph = net(*("MatMul qkv: x", "Add bias: qkv k", *split, "Transpose kt: key", "MatMul qk: q kt"), *SOFTMAX)

    assert floats(graph) == {"qkv": SPLIT, "qk": PRODUCT, "av": PRODUCT}
    assert floats(graph, rules="cpu") == {"qk": PRODUCT, "av": PRODUCT}
    assert "qkv" not in floats(graph, KeepFloat(head=False, attention_split=False))
    assert floats(graph, KeepFloat(head=False, attention_split=True), "cpu")["qkv"] == (
        "query, key and value in one (keep_float.attention_split)"
    )


def test_products_of_their_own_for_query_key_and_value_are_quantized():
    graph = net("MatMul q: x", "MatMul key: x", "MatMul v: x", "Transpose kt: key", "MatMul qk: q kt", *SOFTMAX)

    assert floats(graph) == {"qk": PRODUCT, "av": PRODUCT}


def test_parts_that_are_computed_with_first_or_that_no_product_reads_do_not_count():
    gated = net("MatMul m: x", "Slice a: m k k", "Slice b: m k k", "Sigmoid g: b", "Mul y: a g", "MatMul out: y")
    active = net("MatMul m: x", "Gelu a: m", "Slice q: a k", "Slice key: a k", "MatMul qk: q key", "MatMul out: qk")
    one = net("MatMul m: x", "Slice q: m k", "MatMul qk: q x", "MatMul out: qk")
    whole = net("MatMul m: x", "Transpose t: m", "MatMul qk: m t", "MatMul out: qk")

    for graph in (gated, active, one, whole):
        assert not {"m", "out"} & floats(graph).keys()


# --- FP8


@pytest.mark.parametrize(
    ("kernel", "kept"), [((3, 3), False), ((4, 8), False), ((2, 16), False), ((3, 11), True), ((7, 7), True)]
)
def test_large_kernels_stay_float_in_fp8_on_tensorrt(kernel, kept):
    graph = net("Relu r: x", op("Conv c: r", kernel=kernel), "Conv out: c")

    def reason(rules, number_format):
        return {layer.name: layer.reason for layer in place(graph, ALL_INT8, rules, number_format).layers}["c"]

    fp8 = "kernel of more than 32 values in FP8: TensorRT computes it in float"
    assert reason("tensorrt", "fp8") == (fp8 if kept else INT8)
    assert reason("tensorrt", "int8") == INT8
    assert reason("cpu", "fp8") == INT8


# --- squeeze-and-excite


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("inner", [("Relu r: one",), ("Sigmoid g: one", "Mul r: one g")], ids=["relu", "silu"])
@pytest.mark.parametrize(
    "gate", [("Sigmoid s: two",), ("HardSigmoid s: two",), ("Add p: two k", "Clip c: p k k", "Div s: c k")]
)
def test_the_gate_of_squeeze_and_excite_stays_float_and_its_product_is_quantized_where_it_is_used(pool, inner, gate):
    graph = net(
        *("Conv a: x", "Relu f: a", f"{pool} mean: f"),
        *("Conv one: mean", *inner, "Conv two: r", *gate, "Mul se: f s", "Conv b: se"),
    )

    assert floats(graph) == {"one": SE, "two": SE}
    assert sites(graph) == {"x": ["a:0"], "se": ["b:0"]}
    assert floats(graph, rules="cpu") == {"one": SE, "two": SE}
    assert floats(graph, KeepFloat(head=False, squeeze_excite=False)) == {}
    assert (
        floats(graph, KeepFloat(head=False, squeeze_excite=True))["one"]
        == "squeeze-and-excite (keep_float.squeeze_excite)"
    )


def test_a_gate_of_matrix_products_between_reshapes_is_one():
    graph = net(
        *("Conv a: x", "GlobalAveragePool p: a", "Flatten v: p", "Gemm one: v", "Relu r: one", "Gemm two: r"),
        *("Sigmoid g: two", "Reshape s: g k", "Mul se: s a", "Conv b: se"),
    )

    assert floats(graph) == {"one": SE, "two": SE}


def test_a_gate_that_is_expanded_to_the_shape_of_what_it_scales_is_one():
    graph = net(
        *("Conv a: x", "GlobalAveragePool p: a", "Conv one: p", "Sigmoid g: one"),
        *("Shape h: a", "Cast c: h", "Expand e: g c", "Mul se: a e", "Conv b: se"),
    )

    assert floats(graph) == {"one": SE}


def test_a_gate_from_a_mean_and_a_maximum_is_one():
    """CBAM: shared layers on both; the gate over positions that follows is an ordinary convolution."""
    graph = net(
        *("Conv a: x", "GlobalAveragePool p: a", "GlobalMaxPool q: a", "Conv p1: p", "Conv q1: q", "Add s: p1 q1"),
        *("Sigmoid g: s", "Mul channels: a g"),
        *("ReduceMean m: channels", "ReduceMax n: channels", "Concat c: m n", "Conv where: c", "Sigmoid h: where"),
        *("Mul places: channels h", "Conv b: places"),
    )

    assert floats(graph) == {"p1": SE, "q1": SE}


def test_a_classifier_behind_a_mean_is_no_gate():
    silu = net("Conv a: x", "GlobalAveragePool p: a", "Conv fc: p", "Sigmoid g: fc", "Mul h: fc g", "Conv out: h")
    gated = net("GlobalAveragePool p: x", "Conv a: p", "Conv b: p", "Sigmoid g: b", "Mul h: a g", "Conv out: h")
    pooled = net("Conv a: x", "GlobalAveragePool p: a", "Conv b: p", "Resize u: b k", "Concat c: a u", "Conv d: c")

    assert (floats(silu), floats(gated), floats(pooled)) == ({}, {}, {})


# --- attention


def test_the_projections_of_attention_are_quantized_and_its_products_are_not():
    graph = net(
        *("LayerNormalization n: x k k", "MatMul q: n", "MatMul k0: n", "MatMul v: n", "Transpose kt: k0"),
        *("MatMul scores: q kt", "Div d: scores k", "Softmax p: d", "MatMul mixed: p v", "MatMul out: mixed"),
    )

    assert floats(graph) == {"scores": PRODUCT, "mixed": PRODUCT}
    assert sites(graph) == {"n": ["q:0", "k0:0", "v:0"], "mixed": ["out:0"]}


# --- heads and the decoding of boxes


def yolov8_head(level, source):
    """One level of YOLOv8: a tower for boxes as distributions over 16 distances, one for classes."""
    return (
        *(f"Conv box_tower{level}: {source}", f"Conv box{level}: box_tower{level}"),
        *(f"Conv cls_tower{level}: {source}", f"Conv cls{level}: cls_tower{level}"),
        *(f"Concat both{level}: box{level} cls{level}", f"Reshape flat{level}: both{level} k"),
    )


def test_the_head_of_a_detector_lies_behind_its_decoding():
    graph = net(
        *("Conv stem: x", "Conv p3: stem", "Conv p4: p3"),
        *(*yolov8_head(3, "p3"), *yolov8_head(4, "p4"), "Concat all: flat3 flat4"),
        *("Slice boxes: all k k k", "Slice classes: all k k k"),
        *("Reshape r: boxes k", "Transpose t: r", "Softmax s: t", "Transpose u: s", "Conv dfl: u", "Reshape d: dfl k"),
        *("Slice lt: d k k k", "Slice rb: d k k k", "Sub low: k lt", "Add high: k rb", "Concat xyxy: low high"),
        *("Mul scaled: xyxy k", "Sigmoid scores: classes", "Concat y: scaled scores"),
    )

    assert heads(graph) == {"box3", "cls3", "box4", "cls4"}
    assert reasons(graph, KeepFloat())["dfl"] == DECODING
    assert floats(graph) == {"dfl": DECODING}  # whatever keep_float.head says


def test_heads_are_found_through_what_exporters_append():
    graph = net(
        *("Conv stem: x", "Conv a: stem", "Sigmoid s: a", "Transpose t: s", "TopK top: t k", "com.acme.Nms y: top")
    )

    assert heads(graph) == {"a"}


def test_the_last_transposed_convolution_of_a_decoder_is_the_head_and_nothing_before_it():
    graph = net("Conv a: x", "Conv b: a", "Relu r: b", "ConvTranspose up: r")

    assert floats(graph, KeepFloat()) == {"up": "transposed convolution: computed in FP16 by TensorRT"}


def test_of_residual_blocks_before_an_output_only_the_last_is_the_head():
    graph = net(
        *("Conv stem: x", "Relu r0: stem", "Conv a: r0", "Add sa: a r0", "Relu ra: sa"),
        *("Conv b: ra", "Add sb: ra b", "Relu y: sb"),
    )
    projected = net("Conv stem: x", "Conv short: stem", "Conv a: stem", "Add y: a short")

    assert heads(graph) == {"b"}
    assert heads(projected) == {"short", "a"}


def test_an_output_inside_the_network_has_its_head():
    graph = net("Conv a: x", "Relu r: a", "Conv b: r", "Conv c: b", outputs=("c", "r"))

    assert heads(graph) == {"a", "c"}
    assert sites(graph, KeepFloat()) == {"r": ["b:0"]}


# --- what no network should have, and some do


def test_odd_graphs_are_placed_all_the_same():
    graphs = {
        "dead branch": net("Conv a: x", "Conv dead: a", "Conv y: a"),
        "only an input": GraphView((), ("x",), frozenset()),
        "an output that is constant": net("Conv a: x", outputs=("k",)),
        "an opaque operator": net("Conv a: x", "com.acme.Attention o: a", "Conv y: o"),
        "the same tensor twice": net("Conv a: x", "Mul m: a a", "Add n: m m", "Concat c: n n", "Conv y: c"),
        "optional inputs left out": net(
            "Conv a: x", Op("r", "Resize", ("a", "", "k"), ("r",), moves=True), "Conv y: r"
        ),
        "an output that nothing produces": net("Conv a: x", outputs=("nothing",)),
        "no input": net("RandomNormal r:", "Conv y: r"),
        "a subgraph that captures": net("Conv a: x", Op("i", "If", ("k", "a", "inner"), ("i",)), "Conv y: i"),
    }

    assert {name: bool(place(graph, ALL_INT8).activations) for name, graph in graphs.items()} == {
        name: name != "only an input" for name in graphs
    }


def test_a_reader_of_the_shape_is_no_user_of_the_values() -> None:
    graph = net("Conv c: x", "Conv z: x", "Shape size: c", "Resize up: z k k size", "Add sum: c up", "Conv last: sum")

    assert sites(graph)["up"] == ["sum:1"]  # `c` is only added: its convolution takes the addition
