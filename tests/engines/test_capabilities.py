import dataclasses

import pytest

from avcompress.recipe import Recipe
from avcompress.spec import RecipeError
from engines.capabilities import TARGETS, Asked, capabilities, check_formats, refusal

ASKED = {
    "zero_points": Asked(zero_points=True),
    "dynamic": Asked(dynamic=True),
    "int4": Asked(int4=True, opset=21),
    "fp8": Asked(fp8=True, opset=19),
    "bf16": Asked(bf16=True, opset=22),
}
# What each target takes, on GPUs of sm89.
TAKEN = {
    "tensorrt-8": set(),
    "tensorrt-10": {"fp8", "bf16"},
    "tensorrt-11": {"fp8", "bf16"},
    "tensorrt-rtx": {"int4", "fp8", "bf16"},
    "openvino": set(ASKED),
    "onnxruntime": set(ASKED),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("what", ASKED)
def test_each_target_takes_what_the_table_says(target, what):
    reason = refusal(ASKED[what], target, (89,))

    assert (reason is None) == (what in TAKEN[target])
    if reason is not None:
        assert reason.startswith("expected ")
        assert "; use " in reason
        assert capabilities(target).title in reason or "sm" in reason


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_asked_is_never_refused(target):
    assert refusal(Asked(), target, (75, 80)) is None


@pytest.mark.parametrize(
    ("asked", "machines", "words"),
    [
        ("fp8", (86, 89), "sm86 has no FP8; use compute_capabilities: [sm89], or format: int8"),
        ("fp8", (75, 86), "sm75, sm86 have no FP8; use compute_capabilities: [sm89], or format: int8"),
        ("bf16", (75, 86, 120), "sm75 has no BF16; use compute_capabilities: [sm86, sm120], or format: fp16"),
        ("zero_points", (), "expected symmetric activations, TensorRT-RTX takes no zero points; use activations: symm"),
        ("dynamic", (), "TensorRT-RTX has no dynamic one; use a ptq stage"),
    ],
)
def test_a_refusal_says_what_to_use_instead(asked, machines, words):
    assert words in refusal(ASKED[asked], "tensorrt-rtx", machines)


def test_int4_is_for_matrix_products_on_tensorrt():
    words = "expected weights in INT8, TensorRT 10 takes INT4 in matrix products only, not in convolutions"
    assert refusal(ASKED["int4"], "tensorrt-10").startswith(words)


def test_an_opset_beyond_the_target_is_refused():
    assert "the format needs opset 19" in refusal(Asked(opset=19), "tensorrt-8")


def test_no_fact_is_left_to_a_default():
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(capabilities("openvino")))


# --- recipes


def recipe(stages, engines):
    scenes = {"format": "scenes", "count": 2, "labels": "masks"}
    return Recipe.model_validate(
        {
            "name": "r",
            "task": {"kind": "segmentation"},
            "model": {"onnx": "m.onnx"},
            "preprocess": {"size": [32, 32]},
            "data": {"calibration": scenes, "validation": scenes},
            "stages": stages,
            "target": {"engines": engines},
            "contract": {"int8": {"min_macs": 0.5}},
        }
    )


ORT, OPENVINO, RTX = {"backend": "ort"}, {"backend": "openvino"}, {"backend": "trt_rtx"}
TRT = {"backend": "trt"}
STAGES = [
    {"kind": "ptq"},
    {"kind": "ptq", "activations": "asymmetric"},
    {"kind": "ptq", "format": "fp8"},
    {"kind": "dynamic"},
    {"kind": "weight_only", "format": "int4"},
    {"kind": "weight_only"},
    {"kind": "cast"},
    {"kind": "cast", "format": "bf16"},
]


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_the_cpu_engines_take_every_format(stage):
    check_formats(recipe([stage], [ORT, OPENVINO]))


@pytest.mark.parametrize("stage", [STAGES[i] for i in (0, 4, 5, 6, 7)], ids=str)
def test_tensorrt_rtx_takes_these_formats(stage):
    check_formats(recipe([stage], [ORT, RTX]))


@pytest.mark.parametrize(
    ("stages", "engine", "words"),
    [
        ([STAGES[1]], RTX, r"stages\[0\].activations: expected symmetric .*, or leave trt_rtx out of target.engines"),
        ([STAGES[2]], RTX, r"stages\[0\].format: expected GPUs from sm89 on, sm86 has no FP8; .*\[sm89\]"),
        ([STAGES[3]], RTX, r"stages\[0\].kind: expected static quantization, TensorRT-RTX"),
        ([STAGES[1]], TRT, r"stages\[0\].activations: expected symmetric .*, or leave trt out of target.engines"),
        ([STAGES[3]], TRT, r"stages\[0\].kind: expected static quantization, TensorRT 10"),
        ([STAGES[0], STAGES[7]], {**RTX, "compute_capabilities": ["sm75"]}, r"stages\[1\].format: expected GPUs from"),
    ],
)
def test_what_an_engine_cannot_take_is_refused_before_the_work(stages, engine, words):
    with pytest.raises(RecipeError, match=words):
        check_formats(recipe(stages, [ORT, engine]))


def test_fp8_on_newer_gpus_alone_is_taken():
    check_formats(recipe([STAGES[2]], [{**RTX, "compute_capabilities": ["sm89", "sm120"]}]))


def test_fp8_has_no_zero_point_on_any_engine():
    with pytest.raises(RecipeError, match=r"stages\[0\].activations: expected symmetric for format: fp8"):
        check_formats(recipe([{"kind": "ptq", "format": "fp8", "activations": "asymmetric"}], [ORT]))
