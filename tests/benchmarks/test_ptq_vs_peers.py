import json
import re
import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]

from judge_network import int8_layers, share  # noqa: E402
from peer_images import CalibrationImages, ImageReader  # noqa: E402
from peers import peer_environment  # noqa: E402
from peers.peer_figure import draw, points  # noqa: E402
from peers.peer_rows import Comparison, Cost, Row, markdown  # noqa: E402
from peers.timed_child import last_line, run_child  # noqa: E402
from ptq_vs_peers import CONTESTANTS, measure, wanted  # noqa: E402
from run_ours import with_depthwise  # noqa: E402

from avcompress.recipe import KeepFloat, Ptq, Smooth  # noqa: E402

FLOAT = Row("fp32", "FP32, one pass", Cost(2.0, 3.0, 150.0), {"accuracy": {"AP": 0.285}, "int8_macs": 0.0})
OURS = Row(
    "ours-recipe",
    "ours, recipe",
    Cost(5.0, 9.0, 424.0, 0.6),
    {
        "accuracy": {"AP": 0.283},
        "accuracy_optimized": {"AP": 0.2835},
        "int8_macs": 0.927,
        "int8_layers": 74,
        "rtx": "accepted",
        "rtx_int8_layers": 74,
    },
)
MIXED = Row(
    "nncf-mixed",
    "NNCF, mixed",
    Cost(13.0, 20.0, 1801.0),
    {
        "accuracy": {"AP": 0.2805},
        "accuracy_optimized": {"AP": 0.27},
        "rtx": "refused",
        "rtx_reason": "parse: zero point",
    },
)
FAILED = Row("modelopt-max", "ModelOpt, max", failure="not installed: no such version")


def comparison(*rows):
    return Comparison("yolox", 128, (1, 3, 416, 416), ("AP",), 113, rows)


def test_the_table_shows_every_figure_of_a_row_and_its_ratio_to_the_float_pass():
    table = markdown(comparison(FLOAT, OURS))

    assert table.startswith("### yolox: 128 calibration images of 416x416\n")
    assert "| ours, recipe | 0.2830 | 92.7% | 74 of 113 | 5.0 | 9.0 | 2.5 | 424 | accepted | 74 of 113 |" in table
    assert "optimizations" not in table


def test_a_refusal_a_failure_and_an_accuracy_that_depends_on_optimizations_are_noted():
    notes = [line for line in markdown(comparison(FLOAT, MIXED, FAILED)).splitlines() if line.startswith("- ")]

    assert notes == [
        "- NNCF, mixed: TensorRT-RTX: parse: zero point",
        "- NNCF, mixed: AP 0.2700 with ONNX Runtime's graph optimizations on",
        "- ModelOpt, max: failed: not installed: no such version",
    ]


def test_without_the_float_pass_there_is_no_ratio():
    assert "| 13.0 | 20.0 | - | 1,801 |" in markdown(comparison(MIXED))


@given(st.lists(st.sampled_from([FLOAT, OURS, MIXED, FAILED]), max_size=6))
def test_every_line_of_the_table_has_the_same_number_of_cells(rows):
    lines = [line for line in markdown(comparison(*rows)).splitlines() if line.startswith("|")]

    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1


def test_the_plot_holds_the_quantized_rows_and_a_gain_counts_as_the_least_loss(tmp_path):
    better = Row("nncf-performance", "NNCF", Cost(14.0, 20.0, 805.0), {"accuracy": {"AP": 0.29}})
    drawn = comparison(FLOAT, OURS, better, FAILED)

    assert [(row.name, round(lost, 6)) for row, lost in points(drawn)] == [
        ("ours-recipe", 0.2),
        ("nncf-performance", 0.02),
    ]
    assert draw([drawn], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_there_is_no_plot_without_the_float_network(tmp_path):
    assert not draw([comparison(OURS)], tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_a_peer_that_is_not_installed_is_a_row_with_the_reason(tmp_path):
    def never(*_arguments, **_options):
        raise AssertionError("nothing is to be run")

    error = peer_environment.InstallError("ERROR: no such version")

    row = measure(CONTESTANTS[-1], error, (tmp_path, tmp_path, tmp_path), never, 1)

    assert row == Row("nncf-mixed", "NNCF 3.4, mixed", failure="not installed: ERROR: no such version")


def test_a_quantizer_that_crashes_is_a_row_with_its_last_line(tmp_path):
    def run(_command, log):
        return run_child([sys.executable, "-c", "import sys; sys.exit('no such layer')"], log, 60)

    row = measure(CONTESTANTS[1], Path(sys.executable), (tmp_path, tmp_path, tmp_path), run, 1)

    assert row.failure == "exit code 1: no such layer"


def test_a_child_is_measured_alone(tmp_path):
    code = "import time; held = bytearray(300 << 20); time.sleep(0.3)"

    ended = run_child([sys.executable, "-c", code], tmp_path / "log", 60)

    assert ended.code == 0
    assert ended.peak_mb > 300
    assert ended.seconds > 0.3
    assert ended.last == "it printed nothing"


def test_a_child_that_takes_too_long_is_killed(tmp_path):
    ended = run_child([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", 0.5)

    assert ended.code == -9
    assert ended.seconds < 30


def test_the_last_line_of_a_traceback_is_the_exception(tmp_path):
    (tmp_path / "log").write_text("Traceback (most recent call last):\n  File x\nValueError: no scale\n\n")

    assert last_line(tmp_path / "log") == "ValueError: no scale"


def test_pips_error_is_found_before_what_it_prints_after(tmp_path):
    (tmp_path / "log").write_text("Collecting a\nERROR: No matching distribution found for a==9\n[notice] new pip\n")

    assert peer_environment.install_error(tmp_path / "log") == "ERROR: No matching distribution found for a==9"


def test_names_are_chosen_whole_or_by_tool():
    assert wanted("nncf-mixed", None)
    assert wanted("nncf-mixed", ["nncf"])
    assert wanted("nncf-mixed", ["fp32", "nncf-mixed"])
    assert not wanted("nncf-mixed", ["nncf-performance", "nn"])


def test_every_contestant_has_its_script_and_every_peer_pinned_requirements():
    assert len({contestant.name for contestant in CONTESTANTS}) == len(CONTESTANTS)
    for contestant in CONTESTANTS:
        assert (BENCHMARKS / "peers" / contestant.script).is_file()
        if contestant.peer:
            lines = (BENCHMARKS / "peers" / f"requirements-{contestant.peer}.txt").read_text().splitlines()
            assert all(re.match(r"#|[\w.-]+==[\w.]+(; |$)", line) for line in lines)


def test_images_come_in_order_and_once_more_after_a_rewind(tmp_path):
    (tmp_path / "input.json").write_text(json.dumps({"name": "images"}))
    for number in (2, 0, 1):
        np.save(tmp_path / f"{number:06d}.npy", np.full((1, 3, 2, 2), number, np.float32))
    reader = ImageReader(CalibrationImages(tmp_path))

    def read():
        return [float(batch["images"].max()) for batch in iter(reader.get_next, None)]

    assert len(reader) == 3
    assert read() == [0, 1, 2]
    assert read() == []
    reader.rewind()
    assert float(reader.get_first()["images"].max()) == 0
    assert read() == [0, 1, 2]


def test_a_layer_is_int8_when_both_operands_are_dequantized():
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["x"]),
        helper.make_node("DequantizeLinear", ["qw", "s"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["a"], name="int8"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="weights_only"),
        helper.make_node("Add", ["x", "w"], ["c"], name="not_weighted"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.INT8, None) for name in ("q", "qw")]
    model = helper.make_model(helper.make_graph(nodes, "g", values, []))

    assert list(int8_layers(model)) == ["int8"]


def test_the_share_of_int8_counts_layers_by_the_float_networks_names():
    assert share({"a", "fused"}, {"a": 30, "b": 10}) == {"int8_layers": 1, "int8_macs": 0.75, "renamed_layers": 1}


def test_every_conv_smooths_first_and_quantizes_depthwise_convolutions_too():
    ptq = Ptq(kind="ptq", keep_float=KeepFloat(head=True, depthwise=True))

    smooth, quantize = with_depthwise([ptq])

    assert isinstance(smooth, Smooth)
    assert quantize.keep_float == KeepFloat(head=True, depthwise=False)
    assert with_depthwise([smooth, ptq]) == (smooth, quantize)
