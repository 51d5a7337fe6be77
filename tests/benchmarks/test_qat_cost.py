import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "benchmarks")]

import qat_cost  # noqa: E402
from qat_cost import alternate, stepper  # noqa: E402

TINY = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[1,3,8,8] x) => (float[1,3,8,8] y) <float[3,3,1,1] w = {1,0,0,0,1,0,0,0,1}> { y = Conv (x, w) }
"""


def test_steps_train_what_is_given_and_take_turns():
    layer, calls = torch.nn.Linear(2, 2), []
    before = layer.weight.detach().clone()
    step = stepper(layer, torch.ones(1, 2))

    seconds = alternate((lambda: (calls.append("a"), step()), lambda: calls.append("b")), 2)

    assert calls == ["a", "b"] * 3
    assert seconds[0] > seconds[1] > 0
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(("ratio", "code"), [(1.5, 0), (1.7, 1)])
def test_it_ends_with_1_above_the_limit(monkeypatch, capsys, tmp_path, ratio, code):
    from onnx import parser

    from engines.onnx_graph import infer_shapes, name_nodes

    monkeypatch.setattr(qat_cost, "float_network", lambda *_: infer_shapes(name_nodes(parser.parse_model(TINY))))
    monkeypatch.setattr(qat_cost, "alternate", lambda *_: [1.0, ratio])
    monkeypatch.setattr(sys, "argv", ["-", "--data-root", str(tmp_path), "--batch", "1"])

    assert qat_cost.main() == code
    assert f"| 1.000 | {ratio:.3f} | {ratio:.2f} |" in capsys.readouterr().out
