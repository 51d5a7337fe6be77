"""avcompress.quant.plan: the plan of a network's weighted layers, in another format and in one line."""

from avcompress.quant.plan import as_precision, plan_line
from avcompress.spec import LayerPlan

LAYERS = (
    LayerPlan("a", "Conv", "int8", "both", 75),
    LayerPlan("b", "Conv", "float", "pattern 'b'", 25),
    LayerPlan("c", "Conv", "float", "pattern 'b'", 0),
)


def test_the_line_counts_layers_macs_and_reasons():
    assert plan_line("ptq", LAYERS) == (
        "ptq: 1 of 3 layers in INT8, 75 % of MACs (unknown for 1); float: 2 x pattern 'b'"
    )


def test_the_line_of_a_network_without_a_quantized_layer_names_no_format():
    assert plan_line("dynamic", LAYERS[1:2]) == "dynamic: 0 of 1 layers, 0 % of MACs; float: 1 x pattern 'b'"
    assert plan_line("dynamic", ()) == "dynamic: 0 of 0 layers"


def test_another_precision_leaves_float_layers_and_their_reasons():
    found = as_precision(LAYERS, "fp8", "in FP8")

    assert [(layer.precision, layer.reason) for layer in found] == [
        ("fp8", "in FP8"),
        ("float", "pattern 'b'"),
        ("float", "pattern 'b'"),
    ]
    assert plan_line("ptq", found).startswith("ptq: 1 of 3 layers in FP8,")
