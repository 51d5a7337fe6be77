import pytest

from avcompress.search.latency.roofline import Roofline
from avcompress.search.latency.source import Subject
from avcompress.spec import RecipeError
from engines.profile import Chosen, Platform, Profile


def chosen(**changes) -> Chosen:
    """1 TOPS in INT8, half of it in FP16, 10 GFLOPS in FP32; 1 GB/s."""
    facts = {
        "name": "slow", "title": "a slow board", "kind": "gpu", "platforms": [{"name": "old"}],
        "precisions": ["fp32", "fp16", "int8"], "memory_gb": 1, "bandwidth_gb_s": 1.0,
        "peak": {"fp32": 0.01, "fp16": 0.5, "int8": 1.0},
    }  # fmt: skip
    profile = Profile.model_validate({**facts, **changes})
    return Chosen(profile, Platform(name="old"))


def subject(formats, *precisions: str) -> Subject:
    made = formats(*precisions)
    return Subject(made.model, made.layout, made.choices, made.assigned)


# `first`: 3 -> 8 channels, 3x3, on 8x8: 216 weights, 192 values in, 512 out, 13,824 MACs.


def test_a_layer_takes_the_longer_of_its_arithmetic_and_its_memory(formats):
    found = Roofline(chosen()).table(subject(formats, "fp16", "int8", "int8 weights"))

    # FP32: 2 * 13,824 operations at 1e10 a second are 2.76 us, 4 * 920 bytes at 1e9 are 3.68 us.
    assert found.layer_ms("first", "fp32") == pytest.approx(3.68e-3)
    assert found.layer_ms("first", "fp16") == pytest.approx(2 * 920 * 1e-6)
    assert found.layer_ms("first", "int8") == pytest.approx(920 * 1e-6)
    # In FP16 but for the weights.
    assert found.layer_ms("first", "int8 weights") == pytest.approx((2 * 704 + 216) * 1e-6)
    slower = chosen(peak={"fp32": 0.001})
    assert Roofline(slower).table(subject(formats)).layer_ms("first", "fp32") == pytest.approx(2 * 13824 / 1e9 * 1e3)


def test_channels_are_filled_up_to_the_alignment(formats):
    aligned = chosen(peak={"fp32": 0.001}, channel_alignment={"fp32": 16})

    found = Roofline(aligned).table(subject(formats))

    assert found.layer_ms("first", "fp32") == pytest.approx(2 * 13824 * (16 / 3) * (16 / 8) / 1e9 * 1e3)


def test_a_conversion_reads_one_format_and_writes_the_other(formats):
    found = Roofline(chosen()).table(subject(formats, "fp16", "int8", "int8 weights"))

    assert found.convert_ms("fp32", "int8", 2e6) == pytest.approx(2e6 * 5 / 1e9 * 1e3)
    assert found.convert_ms("int8", "fp16", 1e6) == pytest.approx(1e6 * 3 / 1e9 * 1e3)
    assert found.convert_ms("int8 weights", "fp16", 1e6) == 0


def test_an_estimate_is_marked_as_one(formats):
    found = Roofline(chosen()).table(subject(formats, "int8"))

    assert found.estimate
    assert found.says == "estimated for slow@old"


def test_a_precision_without_a_peak_is_refused(formats):
    with pytest.raises(
        RecipeError, match="slow: expected the peak of bf16, the profile tells that of fp32, fp16, int8"
    ):
        Roofline(chosen()).table(subject(formats, "bf16"))
