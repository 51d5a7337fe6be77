import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.layer_map import BuilderLayer, layer_precisions

TYPES = ("Int8", "FP8", "Half", "Float", "BFloat16")
I8 = "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize64x64x64"
F16 = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize32x64x64"
TF32 = "sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize32x32x16"
FP8 = "sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x64"


@pytest.mark.parametrize(
    ("kind", "inputs", "constants", "expected"),
    [
        ("correlation", ("Int8",), ("Int8", "Float"), "int8"),
        ("correlation", ("Float", "Float"), ("Float",), "fp32"),
        ("gemm", ("Half",), ("Half",), "fp16"),
        ("gemm", ("BFloat16",), ("BFloat16",), "bf16"),
        ("correlation", ("FP8",), ("FP8",), "fp8"),
        ("correlation", ("FP8",), ("Half",), "unknown"),
        ("deconv", ("Float", "Float"), ("Float",), "fp32"),
        ("correlation", ("Int8",), ("Float",), "unknown"),
        ("correlation", ("Int32",), ("Int32",), "unknown"),
        ("correlation", (), ("Int8",), "unknown"),
        ("CaskConvolution", ("Int8",), ("Int8", "Float"), "int8"),
        ("CudaDepthwiseConvolution", ("Half",), ("Half", "Half"), "fp16"),
        ("CaskDeconvolutionV2", ("Float",), ("Float",), "fp32"),
        ("MatrixMultiply", ("Int8", "Int8"), (), "int8"),
        ("MatrixMultiply", ("Int8",), (), "unknown"),
        ("Myelin", ("Int8", "Int8"), (), "unknown"),
        ("DLA", ("Int8",), (), "unknown"),
        ("Convert", ("Float",), (), "unknown"),
    ],
)
def test_a_kernel_of_the_library_computes_in_the_type_of_both_its_operands(layer, kind, inputs, constants, expected):
    assert layer_precisions([layer("a_myl0_1", kind, inputs, constants, "a")], ["a"]) == {"a": expected}


@pytest.mark.parametrize(
    ("steps", "kind", "inputs", "constants", "expected"),
    [
        ("CorrSilu", "runtime_fusion", ("Half",), ("Half",), "fp16"),
        ("FcAddRelu", "runtime_fusion", ("Float",), ("Float",), "fp32"),
        ("FcAddRelu", "fusion", ("Half",), (), "fp16"),
        ("MulSum", "kgen", ("Float",), ("Float",), "fp32"),
        ("MulSum", "kgen", ("Int8",), ("Int8",), "unknown"),
        ("MulAddSilu", "kgen", ("Float",), ("Float",), "unknown"),
        ("MulAddSilu", "runtime_fusion", ("Float",), ("Float",), "unknown"),
        # One operand is dequantized in the kernel: whatever the file says, the product is float.
        ("CastMulFc", "runtime_fusion", ("Int8", "Float"), (), "fp32"),
        ("CastMulFc", "runtime_fusion", ("FP8", "Half"), (), "fp16"),
        ("CastMulCorr", "runtime_fusion", ("Half",), ("Int8", "Half"), "fp16"),
        ("CastMulFc", "runtime_fusion", ("Int8", "Int8"), ("Float",), "fp32"),
        ("CastMulFc", "runtime_fusion", ("Int8", "Half"), ("Float",), "unknown"),
        ("CastMulFc", "runtime_fusion", ("Int8", "Int8"), (), "unknown"),
        ("CastFc", "runtime_fusion", ("Half",), ("Float",), "unknown"),
        ("CastFc", "runtime_fusion", ("FP8",), ("FP8",), "unknown"),
        # The data are quantized in the kernel, and the weight is read as it is.
        ("MulAddReluMulMinMaxRounCastCorrMulAddMove", "kgen", ("Float",), ("Float", "Int8"), "int8"),
        ("MulMinMaxRounCastCorr", "kgen", ("Float",), ("Float",), "fp32"),
        ("MulMinMaxRounCastCorr", "kgen", ("Float",), ("Int8", "FP8"), "unknown"),
        ("MulMinMaxRounCastCorr", "kgen", ("Float", "Int8"), ("Int8",), "unknown"),
        ("MulMinMaxRounCastCastMulCorr", "kgen", ("Float",), ("Int8",), "unknown"),
        ("MulCastCorr", "kgen", ("Float",), ("FP8",), "unknown"),
        ("Corr", "runtime_fusion", ("Int8",), ("Int8",), "int8"),
        ("Corr", "runtime_fusion", ("Int8",), ("FP8",), "unknown"),
    ],
)
def test_a_generated_kernel_says_in_its_name_what_it_does_to_its_operands(
    layer, steps, kind, inputs, constants, expected
):
    found = layer(f"__myl_{steps}_myl0_12", kind, inputs, constants, "a")

    assert layer_precisions([found], ["a"]) == {"a": expected}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [(("Half",) * 3, "fp16"), (("Int8",) * 3, "unknown"), (("Half", "Half", "Float"), "unknown"), ((), "unknown")],
)
def test_attention_in_one_kernel_computes_in_the_one_float_type_that_it_reads(layer, inputs, expected):
    found = layer("_gemm_mha_v2_myl0_11", "kgen", inputs, (), "qk", "softmax", "av")

    assert layer_precisions([found], ["qk", "av"]) == {"qk": expected, "av": expected}


@pytest.mark.parametrize(
    ("kind", "inputs", "constants", "tactic", "expected"),
    [
        ("gemm", ("Int8",), (), I8, "int8"),  # TensorRT 10 does not tell the weight
        ("gemm", ("FP8",), (), FP8, "fp8"),
        ("gemm", ("Float",), (), TF32, "fp32"),
        ("fusion", ("Int8",), (), I8, "int8"),
        ("CaskConvolution", ("Int8",), ("Int8", "Float"), I8, "int8"),
        ("CaskConvolution", ("Int8",), ("Int8", "Float"), F16, "unknown"),
        ("gemm", ("Half",), (), I8, "unknown"),
        ("gemm", ("Int8",), (), F16, "unknown"),
        ("gemm", ("",), (), I8, "unknown"),
        ("gemm", (), (), I8, "unknown"),
        ("CaskConvolution", ("Int8",), ("Int8",), "ampere_int8x4_icudnn_int8x4_128x32_relu_interior_c32_nn_v1", "int8"),
    ],
)
def test_a_kernel_s_name_fills_in_for_an_operand_and_must_not_contradict(
    layer, kind, inputs, constants, tactic, expected
):
    found = layer("__myl_Fc_myl0_1", kind, inputs, constants, "a", tactic=tactic)

    assert layer_precisions([found], ["a"]) == {"a": expected}


def test_a_fused_layer_counts_for_every_node_it_names(layer):
    fused = layer("v+k", "gemm", ("Int8",), ("Int8",), "v", "x.DQ", "k")

    assert layer_precisions([fused], ["k", "q", "v"]) == {"k": "int8", "q": "unknown", "v": "int8"}


def test_a_node_that_nothing_names_is_unknown_whatever_products_have_no_name(layer):
    named = layer("n", "correlation", ("Int8",), ("Int8",), "a")
    nameless = [layer(f"m_{i}", "correlation", ("Int8",), ("Int8",)) for i in range(2)]

    assert layer_precisions([named, *nameless], ["a", "b", "c"]) == {"a": "int8", "b": "unknown", "c": "unknown"}
    assert layer_precisions([], ["a"]) == {"a": "unknown"}


@given(
    types=st.lists(st.sampled_from(TYPES), min_size=2, max_size=4).filter(lambda types: len(set(types)) > 1),
    data=st.data(),
)
def test_a_node_that_two_products_name_in_two_types_is_unknown(types, data):
    layers = [BuilderLayer(f"l{i}", "gemm", (t,), (t,), ("Float",), ("a", f"b{i}")) for i, t in enumerate(types)]

    found = layer_precisions(data.draw(st.permutations(layers)), ["a"])

    assert found == {"a": "unknown"}


def test_a_product_that_does_not_tell_spoils_what_another_one_tells(layer):
    told, silent = layer("l", "gemm", ("Int8",), ("Int8",), "a"), layer("m", "gemm", ("Int8",), (), "a")

    assert layer_precisions([told, silent], ["a"]) == {"a": "unknown"}
