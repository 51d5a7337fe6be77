import pytest

from avcompress.spec import LayerPlan
from engines.layer_map import Mismatch, as_planned, compare


def plan(name, precision):
    return LayerPlan(name, "Conv", precision, "because", 1)


@pytest.mark.parametrize("got", ["fp32", "fp16", "bf16"])
def test_a_float_plan_is_kept_by_every_float_type(got):
    assert compare([plan("a", "float"), plan("b", "int8")], {"a": got, "b": "int8"}) == ()


@pytest.mark.parametrize(
    ("precision", "got"),
    [
        *((kind, kind) for kind in ("int8", "fp8", "fp16", "bf16", "fp32")),
        *((f"{kind} weights", got) for kind in ("int8", "int4") for got in ("fp32", "fp16", "bf16")),
        *(("int8 dynamic", got) for got in ("int8", "fp32", "bf16")),
        ("float", "float"),
    ],
)
def test_each_precision_is_kept_by_the_type_that_it_computes_in(precision, got):
    assert as_planned(precision, got)
    assert compare([plan("a", precision)], {"a": got}) == ()


@pytest.mark.parametrize(
    ("precision", "got", "message"),
    [
        ("int8", "fp32", "a (Conv): planned int8, but it runs in fp32"),
        ("float", "int8", "a (Conv): planned float, but it runs in int8"),
        ("float", "fp8", "a (Conv): planned float, but it runs in fp8"),
        ("fp8", "fp32", "a (Conv): planned fp8, but it runs in fp32"),
        ("fp8", "int8", "a (Conv): planned fp8, but it runs in int8"),
        ("fp16", "fp32", "a (Conv): planned fp16, but it runs in fp32"),
        ("fp32", "fp16", "a (Conv): planned fp32, but it runs in fp16"),
        ("bf16", "fp16", "a (Conv): planned bf16, but it runs in fp16"),
        ("int8 weights", "int8", "a (Conv): planned int8 weights, but it runs in int8"),
        ("int4 weights", "unknown", "a (Conv): planned int4 weights, and the engine does not say what it runs in"),
        ("int8 dynamic", "fp8", "a (Conv): planned int8 dynamic, but it runs in fp8"),
        ("int8", "unknown", "a (Conv): planned int8, and the engine does not say what it runs in"),
        ("float", "unknown", "a (Conv): planned float, and the engine does not say what it runs in"),
    ],
)
def test_what_runs_otherwise_than_planned_is_a_mismatch(precision, got, message):
    assert compare([plan("a", precision)], {"a": got}) == (Mismatch("a", precision, got, message),)


def test_a_planned_layer_that_the_engine_does_not_list_never_passes():
    (mismatch,) = compare([plan("a", "int8")], {})

    assert mismatch.got == "unknown"
