"""avcompress.quant.placement.policy: which quantized tensors share a scale, and what holds for any graph."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.quant.placement.policy import WEIGHTED, GraphView, Op, Weight, place
from avcompress.recipe import KeepFloat

ALL_INT8 = KeepFloat(head=False, depthwise=False)
MOVING = ["MaxPool", "Reshape", "Transpose", "Flatten", "DepthToSpace", "SpaceToDepth", "Identity", "Slice", "Gather"]


def op(line, **fields):
    """An operator from `Kind name: input input`; a weighted one has a constant weight; Split has two outputs."""
    head, _, inputs = line.partition(":")
    kind, name = head.split()
    sources = tuple(inputs.split())
    if kind in WEIGHTED:
        weight = Weight(f"{name}.w", 1, 0)
        return Op(name, kind, (*sources, weight.tensor), (name,), weight, **fields)
    outputs = (f"{name}.0", f"{name}.1") if kind == "Split" else (name,)
    return Op(name, kind, sources, outputs, **fields)


def net(*lines):
    ops = tuple(op(line) if isinstance(line, str) else line for line in lines)
    return GraphView(ops, ops[-1].outputs, frozenset({o.weight.tensor for o in ops if o.weight} | {"k"}))


def ties(*lines):
    return place(net(*lines), ALL_INT8).ties


@pytest.mark.parametrize("kind", MOVING)
def test_what_moves_values_passes_the_scale_on(kind):
    assert ties("Conv a: x", f"{kind} m: a k", "Conv b: a", "Conv c: m") == (("a", "m"),)


@pytest.mark.parametrize(
    "kind", ["Relu", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Softmax", "Resize", "Pad", "com.acme.X"]
)
def test_what_computes_values_has_a_scale_of_its_own(kind):
    assert ties("Conv a: x", f"{kind} m: a", "Conv b: a", "Conv c: m") == ()


@pytest.mark.parametrize("kind", ["Resize", "Pad", "Upsample"])
def test_resizing_and_padding_pass_the_scale_on_where_they_are_exact(kind):
    assert ties("Conv a: x", op(f"{kind} m: a", moves=True), "Conv b: a", "Conv c: m") == (("a", "m"),)


def test_an_explicit_scale_per_channel_ends_a_tie():
    assert ties("Conv a: x", "MaxPool m: a", "Mul s: m k", "Conv b: a", "Conv c: s") == ()


def test_a_concatenation_shares_its_scale_with_the_inputs_that_are_quantized_elsewhere():
    assert ties("Conv a: x", "Conv b: a", "Conv c: b", "Concat all: a b c k", "Conv d: all") == (("a", "b", "all"),)


def test_concatenations_that_share_an_input_share_a_scale_though_it_is_not_quantized_itself():
    graph = ("Conv a: x", "Conv b: x", "Concat ab: a b", "Conv d: ab", "Conv c: d", "Concat ac: a c", "Conv e: ac")

    assert ties(*graph) == (("ab", "ac"),)


def test_a_concatenation_that_only_float_operators_read_binds_nothing():
    assert ties("Conv a: x", "Conv b: a", "Conv c: b", "Concat all: a b c", "Resize up: all") == ()


def test_spatial_pyramid_pooling_has_one_scale():
    graph = (
        *("Conv a: x", "Relu r: a", "MaxPool p: r", "MaxPool q: p", "MaxPool s: q", "Concat all: r p q s"),
        *("Conv out: all", "Conv other: r", "Conv deep: q", "Concat y: out other deep"),
    )

    assert ties(*graph) == (("all", "r", "q"),)  # in the order of the layers that read them


def test_split_and_concatenate_has_one_scale_from_the_split_to_the_last_layer():
    """C2f: half of a convolution goes through bottlenecks, all of it is concatenated."""
    graph = net(
        *("Conv a: x", "Relu r: a", "Split s: r k", "Conv b: s.1", "Relu t: b", "Conv c: t", "Relu u: c"),
        *("Add sum: u s.1", "Concat all: s.0 s.1 sum", "Conv y: all"),
    )
    placement = place(graph, ALL_INT8)

    assert placement.ties == (("s.1", "all"),)
    assert {s.tensor: s.edges for s in placement.activations}["s.1"] == (("b", 0), ("sum", 1))


def test_growth_by_concatenation_ties_all_layers_unless_a_normalization_stands_between():
    dense = ("Conv a: x", "Concat ab: x a", "Conv b: ab", "Concat abc: ab b", "Conv c: abc")
    normalized = (
        *("Conv a: x", "Concat ab: x a", "BatchNormalization n: ab k k k k", "Relu r: n", "Conv b: r"),
        *("Concat abc: ab b", "BatchNormalization o: abc k k k k", "Relu s: o", "Conv c: s"),
    )

    assert ties(*dense) == (("x", "ab", "abc"),)
    assert ties(*normalized) == ()


def test_a_feature_pyramid_ties_what_is_upsampled_with_what_it_is_concatenated_with():
    graph = (
        *("Conv p4: x", "Conv p5: p4", "Conv top: p5", op("Resize up: top", moves=True), "Concat c: up p4"),
        *("Conv n4: c", "Conv down: top", "Concat d: n4 down", "Conv y: d"),
    )

    assert ties(*graph) == (("p4", "c", "top"),)


# --- any graph


@st.composite
def graphs(draw):
    """A random network of up to 16 operators, with constants, opaque operators, shared weights and several outputs."""
    kinds = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Sigmoid", "Concat", "Split", "Resize"]
    kinds += ["MaxPool", "Softmax", "GlobalAveragePool", "Reshape", "com.acme.X", "Identity"]
    ops, tensors = [], ["x", "k"]
    for i in range(draw(st.integers(1, 16))):
        kind, sources = draw(st.sampled_from(kinds)), draw(st.lists(st.sampled_from(tensors), min_size=2, max_size=2))
        if kind in WEIGHTED:
            weight = Weight(draw(st.sampled_from([f"n{i}.w", "shared.w"])), 1, draw(st.integers(0, 1)))
            weight = draw(st.sampled_from([weight, None]))
            inputs = (sources[0], weight.tensor if weight else sources[1])
            ops.append(Op(f"n{i}", kind, inputs, (f"n{i}",), weight, depthwise=draw(st.booleans()), macs=i))
        else:
            ops.append(op(f"{kind} n{i}: {' '.join(sources)}", moves=draw(st.booleans())))
        tensors.extend(ops[-1].outputs)
    outputs = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3))
    return GraphView(tuple(ops), tuple(outputs), frozenset({o.weight.tensor for o in ops if o.weight} | {"k"}))


keeps = st.builds(KeepFloat, head=st.booleans(), depthwise=st.sampled_from([None, True, False]))
targets = st.sampled_from(["tensorrt", "cpu"])


@given(graph=graphs(), keep=keeps, rules=targets)
def test_any_graph_has_sites_where_its_int8_layers_read_and_nowhere_on_constants(graph, keep, rules):
    placement = place(graph, keep, rules)

    by_name = {o.name: o for o in graph.ops}
    int8 = [layer.name for layer in placement.layers if layer.precision == "int8"]
    edges = {edge: site.tensor for site in placement.activations for edge in site.edges}
    weights = {name for site in placement.weights for name, _ in site.edges}
    assert all(edges[name, 0] == by_name[name].inputs[0] for name in int8)
    assert {name for name, _ in edges if by_name[name].kind in WEIGHTED} == set(int8) == weights
    assert not {site.tensor for site in placement.activations} & graph.constants
    assert {site.tensor for site in placement.weights} <= graph.constants


@given(graph=graphs(), keep=keeps, rules=targets)
def test_ties_are_disjoint_groups_of_sites_that_values_pass_between(graph, keep, rules):
    placement = place(graph, keep, rules)

    sites = [site.tensor for site in placement.activations]
    tied = [tensor for group in placement.ties for tensor in group]
    connected = {frozenset(p) for p in _passes(graph)}
    assert len(tied) == len(set(tied))
    assert set(tied) <= set(sites)
    for group in placement.ties:
        assert len(group) > 1
        assert [t for t in sites if t in group] == list(group)
        assert set(group) <= _component(group[0], connected)


def _passes(graph):
    """Pairs of tensors that some operator passes values between, written down apart from the policy."""
    for o in graph.ops:
        if o.kind in {"MaxPool", "Reshape", "Identity", "Split", "Concat"} or (o.kind == "Resize" and o.moves):
            sources = o.inputs if o.kind == "Concat" else o.inputs[:1]
            yield from ((a, b) for a in sources for b in o.outputs if a not in graph.constants)


def _component(start, pairs):
    found = {start}
    while grown := {t for pair in pairs if pair & found for t in pair} - found:
        found |= grown
    return found


@given(graph=graphs(), keep=keeps, rules=targets)
def test_renaming_everything_renames_the_placement_and_changes_nothing_else(graph, keep, rules):
    new = {}

    def renamed(name):
        return new.setdefault(name, f"{'zyxwv'[len(new) % 5]}{len(new)}") if name else name

    def rename(o):
        weight = o.weight and dataclasses.replace(o.weight, tensor=renamed(o.weight.tensor))
        inputs, outputs = (tuple(map(renamed, names)) for names in (o.inputs, o.outputs))
        return dataclasses.replace(o, name=f"op {o.name}", inputs=inputs, outputs=outputs, weight=weight)

    other = GraphView(
        tuple(map(rename, graph.ops)), tuple(map(renamed, graph.outputs)), frozenset(map(renamed, graph.constants))
    )
    before, after = place(graph, keep, rules), place(other, keep, rules)

    def site(s):
        return dataclasses.replace(s, tensor=new[s.tensor], edges=tuple((f"op {n}", i) for n, i in s.edges))

    assert after.activations == tuple(map(site, before.activations))
    assert after.weights == tuple(map(site, before.weights))
    assert after.ties == tuple(tuple(new[t] for t in group) for group in before.ties)
    assert after.layers == tuple(dataclasses.replace(layer, name=f"op {layer.name}") for layer in before.layers)
    assert place(graph, keep, rules) == before
