"""validation.drift: figures by hand and by the error analysis, the spoiled layer named, and what cannot be compared."""

import dataclasses
import math
import signal

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from avcompress.contract import DriftTerm
from avcompress.quant.analysis.probe import probe
from avcompress.spec import DataError, EngineError, ModelError, RecipeError
from engines.activations import by_openvino
from validation import drift as module
from validation.drift import LayerDrift, compare_layers, first_beyond, judge_drift

LAYERS = 6
CHANNELS = 8
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def constants_(model, **values):
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in values.items())
    return model


def pointwise(text, shape="1,3", **values):
    """A small network of x and `y`, from nodes in ONNX's text form."""
    body = f"{HEAD} net (float[{shape}] x) => (float[{shape}] y) {{ {text} }}"
    return constants_(parser.parse_model(body), **{name: np.float32(value) for name, value in values.items()})


def chain(quantized=False, spoiled=None, how="weight"):
    """Convolutions conv0, conv1, ... with their Relus; `spoiled`: the number of the one that is made wrong."""
    rng = np.random.default_rng(0)
    values, nodes, tensor = {}, [], "x"
    for i in range(LAYERS):
        weight = rng.normal(0, 0.167, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        source = tensor
        if quantized:
            scale = np.float32(0.002 if i == spoiled and how == "scale" else 0.03)
            values |= {f"s{i}": scale, f"z{i}": np.int8(0)}
            nodes += [
                f"[Q{i}] q{i} = QuantizeLinear ({tensor}, s{i}, z{i})",
                f"[DQ{i}] d{i} = DequantizeLinear (q{i}, s{i}, z{i})",
            ]
            source = f"d{i}"
        if quantized and i == spoiled and how == "weight":
            weight[3] *= -1
        values[f"w{i}"] = weight
        nodes += [f"[conv{i}] c{i} = Conv <pads = [1, 1, 1, 1]> ({source}, w{i})", f"[relu{i}] r{i} = Relu (c{i})"]
        tensor = f"r{i}"
    shape = f"float[1,{CHANNELS},12,12]"
    text = f"{HEAD} net ({shape} x) => ({shape} {tensor}) {{ {' '.join(nodes)} }}"
    return constants_(parser.parse_model(text), **values)


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(0, 1, (1, CHANNELS, 12, 12)).astype(np.float32)} for _ in range(3)]


def test_figures_are_those_by_hand():
    reference = pointwise("[double] a = Mul (x, two) [next] y = Add (a, one)", two=2, one=1)
    network = pointwise("[double] a = Mul (x, two) [next] y = Add (a, one)", two=2.2, one=1)

    first, second = compare_layers(reference, network, [{"x": np.array([[1, -2, 2]], np.float32)}])

    # a: 2, -4, 4 and 2.2, -4.4, 4.4: a tenth off everywhere is 20 dB.
    assert (first.layer, first.tensor) == ("double", "a")
    assert first.sqnr_db == pytest.approx(20, abs=1e-4)
    assert first.cosine == pytest.approx(1)
    assert first.max_error == pytest.approx(0.4, abs=1e-6)
    assert first.amplitude == 4
    # y: 3, -3, 5 and 3.2, -3.4, 5.4: signal 43, noise 0.36, product 46.8, energy 50.96.
    assert (second.layer, second.tensor) == ("next", "y")
    assert second.sqnr_db == pytest.approx(10 * math.log10(43 / 0.36), abs=1e-4)
    assert second.cosine == pytest.approx(46.8 / math.sqrt(43 * 50.96), abs=1e-6)


def test_a_network_compared_with_itself_has_no_drift(batches):
    for found in compare_layers(chain(), chain(), batches):
        assert (found.sqnr_db, found.max_error) == (math.inf, 0)
        assert found.cosine == pytest.approx(1)


@pytest.mark.parametrize("how", ["weight", "scale"])
@pytest.mark.parametrize("spoiled", range(LAYERS))
def test_the_one_spoiled_layer_is_the_first_beyond_the_bound(spoiled, how, batches):
    sound = compare_layers(chain(), chain(quantized=True), batches)
    found = compare_layers(chain(), chain(True, spoiled, how), batches)

    assert first_beyond(sound, 15) is None
    assert first_beyond(found, 15).layer == f"conv{spoiled}"
    assert [drift.layer for drift in found] == [f"{op}{i}" for i in range(LAYERS) for op in ("conv", "relu")]


def test_the_error_analysis_measures_the_same(batches):
    reference, network = chain(), chain(quantized=True)

    ours = {drift.layer: drift.sqnr_db for drift in compare_layers(reference, network, batches)}

    for layer, power in probe(network, reference, batches).items():
        assert ours[layer] == pytest.approx(10 * math.log10(power.signal / power.depth), abs=1e-3)


@given(split=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_batches_add_up_as_one(split, seed):
    values = np.random.default_rng(seed).normal(0, 3, (10, 3)).astype(np.float32)
    reference = pointwise("[a] y = Mul (x, k)", "N,3", k=1)
    network = pointwise("[a] y = Mul (x, k) ", "N,3", k=0.9)

    (whole,) = compare_layers(reference, network, [{"x": values}])
    (parts,) = compare_layers(reference, network, [{"x": values[:split]}, {"x": values[split:]}])

    assert dataclasses.astuple(parts)[2:] == pytest.approx(dataclasses.astuple(whole)[2:], rel=1e-9)


def test_layers_that_do_not_fit_one_pass_take_several(batches, monkeypatch):
    at_once = compare_layers(chain(), chain(quantized=True), batches)
    monkeypatch.setattr(module, "_PASS_BYTES", 5000)
    monkeypatch.setattr(module, "_CHUNK", 100)

    for found, expected in zip(compare_layers(chain(), chain(quantized=True), batches), at_once, strict=True):
        assert (found.layer, found.tensor) == (expected.layer, expected.tensor)
        assert dataclasses.astuple(found)[2:] == pytest.approx(dataclasses.astuple(expected)[2:], rel=1e-9)


def test_openvino_tells_the_same_of_a_float_network(batches):
    found = compare_layers(chain(), chain(), batches, run=by_openvino)

    assert [drift.layer for drift in found] == [f"{op}{i}" for i in range(LAYERS) for op in ("conv", "relu")]
    assert all(drift.sqnr_db > 90 for drift in found)


def test_a_spoiled_layer_is_named_on_openvino_too(batches):
    found = compare_layers(chain(), chain(True, 3), batches, run=by_openvino)

    assert first_beyond(found, 15).layer == "conv3"


def test_ctrl_c_works_after_several_passes_on_openvino(batches, monkeypatch):
    monkeypatch.setattr(module, "_PASS_BYTES", 5000)
    compare_layers(chain(), chain(), batches, run=by_openvino)

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_fp16_tensors_are_compared_with_their_values():
    reference = pointwise("[a] y = Mul (x, k)", k=1)
    text = f"{HEAD} net (float[1,3] x) => (float[1,3] z) {{ [c] h = Cast <to = 10> (x) [a] y = Mul (h, k) "
    network = constants_(parser.parse_model(text + "[d] z = Cast <to = 1> (y) }"), k=np.float16(1))

    (found,) = compare_layers(reference, network, [{"x": np.array([[1, 2, 2049]], np.float32)}])

    assert found.max_error == 1  # FP16 has 2048 and 2050


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((np.nan, 0, 1), (math.nan, math.nan, math.inf)),  # 0 * inf and the like in one network alone
        ((np.inf, 0, 1), (math.nan, math.nan, math.inf)),
    ],
)
def test_what_is_no_number_in_one_network_alone_is_beyond_every_bound(values, expected):
    reference, network = pointwise("[a] y = Add (x, k)", k=0), pointwise("[a] y = Add (x, k)")
    constants_(network, k=np.array([values], np.float32))

    (found,) = compare_layers(reference, network, [{"x": np.ones((1, 3), np.float32)}])

    assert (found.sqnr_db, found.cosine, found.max_error) == pytest.approx(expected, nan_ok=True)
    assert first_beyond([found], -1000) == found
    check, note = judge_drift(DriftTerm(min_sqnr_db=-1000), [found])
    assert not check.passed
    assert "the first is a, nan dB" in note


def test_a_mask_of_minus_infinity_in_both_is_no_difference():
    mask = np.array([[0, -np.inf, 0]], np.float32)
    both = [constants_(pointwise("[a] y = Add (x, k)"), k=mask) for _ in range(2)]

    (found,) = compare_layers(*both, [{"x": np.ones((1, 3), np.float32)}])

    assert dataclasses.astuple(found)[2:] == pytest.approx((math.inf, 1.0, 0.0, 1.0))


def test_a_layer_that_is_zero_throughout_has_figures():
    zero, one = pointwise("[a] y = Mul (x, k)", k=0), pointwise("[a] y = Mul (x, k)", k=1)
    batch = {"x": np.ones((1, 3), np.float32)}

    (same,) = compare_layers(zero, zero, [batch])
    (other,) = compare_layers(zero, one, [batch])

    assert (same.sqnr_db, same.cosine, same.amplitude) == (math.inf, 1, 0)
    assert other.sqnr_db == -math.inf
    assert math.isnan(other.cosine)


def test_only_layers_that_match_are_compared(batches):
    found = compare_layers(chain(), chain(quantized=True), batches, layers=("conv[12]", "relu5"))

    assert [drift.layer for drift in found] == ["conv1", "conv2", "relu5"]


def test_files_are_read(batches, tmp_path):
    for name, model in (("a", chain()), ("b", chain(quantized=True))):
        onnx.save(model, tmp_path / f"{name}.onnx")

    assert compare_layers(tmp_path / "a.onnx", tmp_path / "b.onnx", batches) == compare_layers(
        chain(), chain(quantized=True), batches
    )


def test_what_cannot_be_compared_is_told_in_one_line(batches):
    batch = {"x": np.ones((1, 3), np.float32)}
    one, other = pointwise("[a] y = Relu (x)"), pointwise("[a] b = Relu (x) [c] z = Relu (b)".replace("z", "y"))
    other.graph.node[1].output[0] = other.graph.output[0].name = "z"
    wider = pointwise("[a] w = Concat <axis = 1> (x, x) [b] y = Relu (w)")
    wider.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    with pytest.raises(ModelError, match="expected a network with the tensors of its reference, got one that has none"):
        compare_layers(one, other, [batch])
    with pytest.raises(ModelError, match=r"tensor 'y': expected shape \(1, 3\) as in the reference, got \(1, 6\)"):
        compare_layers(one, wider, [batch])
    with pytest.raises(DataError, match="drift: expected at least one batch"):
        compare_layers(one, one, [])
    with pytest.raises(RecipeError, match="got 'convv', which matches none; its first layer is 'a'"):
        compare_layers(one, one, [batch], layers=("a", "convv"))
    for run in (module.by_ort, by_openvino):
        with pytest.raises(EngineError, match=r"expected a run, got: .*; check the network's inputs"):
            compare_layers(one, one, [{"other": batch["x"]}], run=run)


def test_the_contract_s_term_is_a_check_on_the_worst_layer():
    drifts = [LayerDrift(f"conv{i}", f"c{i}", db, 1.0, 0.1, 1.0) for i, db in enumerate((30.0, 18.0, 12.0, 25.0))]

    check, note = judge_drift(DriftTerm(min_sqnr_db=20), drifts)
    kept, nothing = judge_drift(DriftTerm(min_sqnr_db=20, layers=("conv0", "conv3")), drifts)
    absent, why = judge_drift(DriftTerm(min_sqnr_db=20, layers=("head*",)), drifts)

    assert (check.measured, check.passed) == (12.0, False)
    assert note == "2 of 4 layers are beyond; the first is conv1, 18.0 dB"
    assert (kept.measured, kept.passed, nothing) == (25.0, True, "")
    assert not absent.passed
    assert why == "not measured: no layer matches head*; see to `contract.drift.layers`"
