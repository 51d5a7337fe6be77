from hypothesis import given
from hypothesis import strategies as st

from engines.layer_map import BuilderLayer, parse_layers

TENSORRT_10 = (
    "Name: /fc/MatMul+/v/MatMul_myl0_4, LayerType: gemm, Inputs: [ { Name: a, Dimensions: [1,40,256], "
    "Format/Datatype: Half }], Outputs: [ { Name: b, Dimensions: [1,40,8], Format/Datatype: Half }], TacticName: "
    "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n, StreamId: 0, Metadata: [ONNX Layer: /fc/MatMul][ONNX Layer: /v/MatMul]"
)


def test_a_line_of_the_log_becomes_a_layer(line):
    log = "\n".join(
        [
            "[VERBOSE] something else",
            "[VERBOSE] Layers:",
            "Name: entry^bb^wait^5_myl0_1, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , "
            "StreamId: 5, EventId: 37, Metadata: ",
            line("c1_myl0_1", "correlation", ["Int8"], ["Int8", "Float"], ["Half"], ["/model.0/c[1]", "x, y"]),
            "",
            "Engine Metadata:",
        ]
    )

    assert parse_layers(log) == (
        BuilderLayer("entry^bb^wait^5_myl0_1", "wait", (), (), (), (), moved_bytes=0),
        BuilderLayer(
            "c1_myl0_1",
            "correlation",
            ("Int8",),
            ("Int8", "Float"),
            ("Half",),
            ("/model.0/c[1]", "x, y"),
            tactic="__myl_x",
            moved_bytes=1024 * (1 + 1 + 4 + 2),
        ),
    )


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1), max_size=4))
def test_any_node_names_are_read_back(line, nodes):
    (parsed,) = parse_layers(line("n", "gemm", ["Int8"], ["Int8"], ["Float"], nodes))

    assert parsed.nodes == tuple(nodes)


def test_a_line_of_tensorrt_10_without_separators_becomes_a_layer():
    assert parse_layers(TENSORRT_10) == (
        BuilderLayer(
            "/fc/MatMul+/v/MatMul_myl0_4",
            "gemm",
            ("Half",),
            (),
            ("Half",),
            ("/fc/MatMul", "/v/MatMul"),
            tactic="sm80_xmma_gemm_f16f16_f16f16_f16_nn_n",
            moved_bytes=2 * 40 * (256 + 8),
        ),
    )


def test_a_dynamic_shape_moves_an_unknown_number_of_bytes():
    (parsed,) = parse_layers(TENSORRT_10.replace("[1,40,256]", "[-1,40,256]"))

    assert parsed.moved_bytes is None
