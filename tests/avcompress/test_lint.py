"""`avcompress lint` as a user's terminal sees it: files, a child process, its exit code, lines and JSON."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.lint import TARGETS, lint_file

COMMAND = "import avcompress.cli.lint; from avcompress.cli import main; main()"


def network(layers, zero):
    """Convolutions in a row, their inputs quantized with one zero point."""
    values = {
        "s": np.float32(0.05),
        "z": zero,
        "w": np.ones((16, 16, 1, 1), np.int8),
        "ws": np.full(16, 0.1, np.float32),
    }
    values["wz"] = np.zeros(16, np.int8)
    nodes = []
    for i in range(layers):
        nodes += [
            helper.make_node("QuantizeLinear", [f"t{i}", "s", "z"], [f"q{i}"], f"block{i}/quantize"),
            helper.make_node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"], f"block{i}/dequantize"),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], [f"w{i}"], f"block{i}/weight", axis=0),
            helper.make_node("Conv", [f"d{i}", f"w{i}"], [f"t{i + 1}"], f"block{i}/conv"),
        ]
    ends = [helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, [1, 16, 8, 8]) for i in (0, layers)]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def model(tmp_path):
    """Forty layers with zero points: eighty findings."""
    onnx.save(network(40, np.int8(-128)), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def run(*arguments, columns=120):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "lint", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": str(columns)},
    )


def assert_refused(done, *parts):
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    for part in ("error: ", *parts):
        assert part in done.stderr


def test_the_help_names_every_target_of_the_engines():
    text = " ".join(run("--help", columns=1000).stdout.split())

    assert all(target in text for target in TARGETS)


def test_a_machine_is_a_target_with_its_platform_and_compute_capability(tmp_path):
    onnx.save(network(1, np.int8(0)), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    for stored in model.graph.initializer:
        if stored.name == "z":
            stored.CopyFrom(helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0]))
    model.opset_import[0].version = 19
    onnx.save(model, tmp_path / "fp8.onnx")

    old = run(tmp_path / "fp8.onnx", "--target", "orin-agx@jetpack-6.2", "--json", tmp_path / "facts.json")
    new = run(tmp_path / "fp8.onnx", "--target", "rtx-4090@tensorrt-10.3")

    assert old.returncode == 1
    assert "TensorRT 10 on sm87 has no FP8" in " ".join(old.stdout.split())
    assert json.loads((tmp_path / "facts.json").read_text())["target"] == "orin-agx@jetpack-6.2"
    assert "FP8" not in new.stdout
    assert new.stdout.startswith("fp8.onnx for rtx-4090@tensorrt-10.3: 0 refused")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_refused_model_exits_with_1_and_its_findings_fit_a_screen(model, tmp_path, columns):
    done = run(model, "--target", "tensorrt-10", "--json", tmp_path / "facts.json", columns=columns)
    lines = done.stdout.splitlines()

    assert (done.returncode, done.stderr) == (1, "")
    assert lines[0] == "net.onnx for tensorrt-10: 80 refused, 0 changed, 0 slower, 0 note"
    assert "  80 x zero_point, first block0/quantize: int8 with zero point -128" in done.stdout
    assert lines[-1] == "80 of 80 can be repaired: add --fix OUT.onnx"
    assert len(lines) < 12
    assert max(map(len, lines)) <= columns
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["counts"] == {"refused": 80, "changed": 0, "slower": 0, "note": 0}
    assert [finding["where"] for finding in facts["findings"][:2]] == ["block0/quantize", "block0/dequantize"]
    assert facts["findings"][0]["fixable"] is True


def test_a_repaired_model_is_written_and_judged(model, tmp_path):
    out = tmp_path / "new" / "fixed.onnx"
    done = run(model, "--target", "tensorrt-11", "--fix", out, "--json", tmp_path / "facts.json")

    assert (done.returncode, done.stderr) == (0, "")
    assert "repaired: 80" in done.stdout
    assert "steps 2.01 times as wide" in " ".join(done.stdout.split())
    assert "fixed.onnx for tensorrt-11: 0 refused, 0 changed" in done.stdout
    assert lint_file(out, "tensorrt-11") == ()
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert len(facts["repairs"]) == 80
    assert facts["remaining"] == []
    assert [path.name for path in out.parent.iterdir()] == ["fixed.onnx"]


def test_a_model_that_is_right_exits_with_0(model):
    done = run(model, "--target", "onnxruntime")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "net.onnx for onnxruntime: 0 refused, 0 changed, 0 slower, 0 note\n"


def test_slower_alone_fails_nobody(tmp_path):
    onnx.save(network(1, np.int8(0)), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.node[-1].input[1] = "float"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "float"))
    onnx.save(model, tmp_path / "net.onnx")

    done = run(tmp_path / "net.onnx", "--target", "tensorrt-rtx")

    assert done.returncode == 0
    assert "0 refused, 0 changed, 1 slower, 0 note" in done.stdout


def test_what_cannot_be_read_or_written_exits_with_2(model, tmp_path):
    (tmp_path / "text.onnx").write_text("plain text")
    before = model.read_bytes()

    assert_refused(run(tmp_path / "text.onnx", "--target", "openvino"), "expected an ONNX file")
    assert_refused(run(tmp_path / "none.onnx", "--target", "openvino"), "nothing of that name")
    assert_refused(run(model, "--target", "tensorrt-9"), "target: expected a name", "did you mean tensorrt-8?")
    assert_refused(run(model, "--target", "orin-agz"), "did you mean orin-agx?")
    assert_refused(run(model, "--target", "tensorrt-10", "--fix", tmp_path), "--fix: expected a file, got a folder")
    assert_refused(run(model, "--target", "tensorrt-10", "--fix", model), "--fix: expected a file of its own")
    assert_refused(run(model, "--target", "tensorrt-10", "--json", model), "--json: expected a file of its own")
    assert model.read_bytes() == before


def test_help_has_an_example_and_loads_no_onnx():
    code = "import sys, avcompress.cli.lint; sys.exit('onnx' in sys.modules or 'torch' in sys.modules)"

    assert "Example: avcompress lint model.onnx --target tensorrt-10" in run("--help").stdout
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
