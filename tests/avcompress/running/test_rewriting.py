"""The stage `rewrite` of a run: what it makes of a network, what it reports, and what it cannot do in one line."""

import json
import re
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

STAGE = {"kind": "rewrite", "rules": ["full_rank", "strided_conv", "hard_swish"], "backend": "ort", "images": 6}
CONTRACT = {"accuracy": [{"metric": "mIoU", "min": 0.0}]}


@pytest.fixture
def swishing(tmp_path, job, tiny_segmenter):
    """The recipe's network with SiLU behind its first convolution and slopes (16, 1, 1) behind its second."""
    network = tiny_segmenter()
    nodes = []
    for node in network.graph.node:
        if node.name == "relu0":
            nodes.append(helper.make_node("Sigmoid", ["conv0_out"], ["gate"], name="gate"))
            nodes.append(helper.make_node("Mul", ["conv0_out", "gate"], ["relu0_out"], name="swish"))
        elif node.name == "relu1":
            nodes.append(helper.make_node("PRelu", ["conv1_out", "slope"], ["relu1_out"], name="slopes"))
        else:
            nodes.append(node)
    slope = np.linspace(0.1, 0.3, 16, dtype=np.float32).reshape(16, 1, 1)
    network.graph.initializer.append(numpy_helper.from_array(slope, "slope"))
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del network.graph.node[:]
    network.graph.node.extend(kept)
    onnx.save(network, tmp_path / "net.onnx")
    return job


@pytest.fixture
def clock(monkeypatch):
    """Sigmoids take a millisecond of three, slopes of fewer than four axes another one."""

    def clock(networks):
        for network in networks:
            kinds = Counter(node.op_type for node in network.graph.node)
            read = {name for node in network.graph.node for name in node.input}
            short = any(len(t.dims) == 3 for t in network.graph.initializer if t.name in read)
            yield 1.0 + kinds["Sigmoid"] + short

    monkeypatch.setattr("avcompress.running.rewriting.engine_clock", lambda *_: lambda networks: tuple(clock(networks)))


def run(cli, tmp_path, job, **changes):
    (tmp_path / "recipe.yaml").write_text(json.dumps({**job, "contract": CONTRACT, **changes}))
    code, out, complaint = cli("run", "recipe.yaml", "--out", "out")
    return code, " ".join((out + complaint).split())


@pytest.mark.usefixtures("clock")
def test_a_network_is_rewritten_trained_quantized_and_reported(cli, tmp_path, swishing):
    distill = {"kind": "distill", "losses": [{"kind": "soft", "temperature": 1}], "steps": 2, "batch_size": 2}

    code, said = run(cli, tmp_path, swishing, stages=[STAGE, distill, {"kind": "ptq"}])

    assert code == 0, said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (found,) = report["smaller"]["rewritings"]
    assert (found["before_ms"], found["after_ms"]) == (3.0, 1.0)
    assert [(rule["rule"], rule["nodes"], rule["kept"]) for rule in found["rules"]] == [
        ("full_rank", ["slopes"], True),
        ("strided_conv", [], False),
        ("hard_swish", ["swish"], True),
    ]
    kinds = {node["op"] for node in json.loads((tmp_path / "out" / "smaller" / "structure.json").read_text())["nodes"]}
    assert "HardSwish" in kinds
    assert "Sigmoid" not in kinds
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Operators written as others" in page


@pytest.mark.usefixtures("clock")
def test_fitted_layers_are_nearer_to_what_they_gave(cli, tmp_path, swishing):
    from engines.in_memory import open_model

    picture = np.asarray(Image.open(tmp_path / "val" / "images" / "0.png"), np.float32) / 255
    image = picture.transpose(2, 0, 1)[None]
    errors = []
    for fit in (False, True):
        code, said = run(cli, tmp_path, swishing, stages=[{**STAGE, "fit": fit}])
        assert code == 0, said
        networks = [onnx.load(tmp_path / name) for name in ("net.onnx", "out/model.onnx")]
        right, given = (open_model(network).run(None, {"images": image})[0] for network in networks)
        errors.append(float(np.square(given - right).mean()))
        (tmp_path / "out").rename(tmp_path / f"out-{fit}")

    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {"layers": ["nowhere*"]},
            r"stages\[0\]\.layers: expected a layer's name, or a pattern of some, got 'nowhere\*'",
        ),
        ({"backend": "openvino"}, r"stages\[0\]\.backend: expected openvino among target\.engines"),
        (
            {"rules": ["strided_conv"], "speedup": 1.2},
            r"expected hard_swish among rules with speedup, got strided_conv",
        ),
        ({"images": 2}, r"expected 4 images at least with fit, got 2"),
        ({"rules": []}, r"rules"),
    ],
)
def test_what_cannot_be_is_one_line(cli, tmp_path, swishing, stage, message):
    code, said = run(cli, tmp_path, swishing, stages=[{**STAGE, **stage}])

    assert code == 2
    assert re.search(message, said), said
    assert "Traceback" not in said
