"""What tests share: the zoo of architectures, a tiny job, and the command line in this process."""

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn


@cache
def _zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo", Path(__file__).parent / "quant" / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _exported(name: str) -> onnx.ModelProto:
    from avcompress.export import to_onnx

    return to_onnx(_zoo().build(name), _zoo().SHAPE[2:])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize `architecture` over the names of the zoo."""
    if "architecture" in metafunc.fixturenames:
        metafunc.parametrize("architecture", sorted(_zoo().ARCHITECTURES))


@pytest.fixture
def torch_network() -> Callable[[str], nn.Module]:
    """A network of the zoo by name: seeded, in eval mode, for (1, 3, 64, 64)."""
    return _zoo().build


@pytest.fixture
def onnx_network() -> Callable[[str], onnx.ModelProto]:
    """The ONNX export of a network of the zoo by name; a copy, so that a test may change it."""

    def exported(name: str) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(_exported(name))
        return model

    return exported


def _tiny_segmenter() -> onnx.ModelProto:
    """Three 3x3 convolutions: 3 -> 16 -> 16 -> 3 channels, 24x32."""
    rng = np.random.default_rng(0)
    widths = (3, 16, 16, 3)
    nodes, weights, tensor = [], [], "images"
    for i in range(3):
        weight = rng.normal(0, (2 / (9 * widths[i])) ** 0.5, (widths[i + 1], widths[i], 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"conv{i}.weight"))
        last = i == 2
        out = "logits" if last else f"conv{i}_out"
        nodes.append(helper.make_node("Conv", [tensor, f"conv{i}.weight"], [out], name=f"conv{i}", pads=[1] * 4))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"relu{i}_out"], name=f"relu{i}"))
        tensor = f"relu{i}_out"
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 24, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 24, 32])
    graph = helper.make_graph(nodes, "tiny", [image], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def tiny_segmenter() -> Callable[[], onnx.ModelProto]:
    """Builds a network of three convolutions, always the same."""
    return _tiny_segmenter


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A recipe whose labels are the float network's own answers, so that the float network reaches mIoU 1."""
    import onnxruntime

    model = _tiny_segmenter()
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    network = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "labels").mkdir()
        for i in range(6):
            small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            image = np.asarray(Image.fromarray(small).resize((32, 24), Image.Resampling.BICUBIC))
            (logits,) = network.run(None, {"images": image.transpose(2, 0, 1)[None].astype(np.float32) / 255})
            Image.fromarray(image).save(tmp_path / split / "images" / f"{i}.png")
            Image.fromarray(logits[0].argmax(0).astype(np.uint8)).save(tmp_path / split / "labels" / f"{i}.png")
    return {
        "name": "tiny",
        "task": {"kind": "segmentation"},
        "model": {"onnx": "net.onnx"},
        "classes": ["low", "middle", "high"],
        "preprocess": {"size": [24, 32], "scale": 1 / 255},
        "data": {
            "calibration": {"format": "images", "images": "train/images"},
            "validation": {"format": "masks", "images": "val/images", "labels": "val/labels"},
        },
        "stages": [{"kind": "ptq", "keep_float": {"head": False}}],
        "target": {"engines": [{"backend": "ort"}]},
        "contract": {"accuracy": [{"metric": "mIoU", "min": 0.7, "max_drop": 0.3}]},
        "measure": {"warmup": 1, "runs": 5},
    }


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a command in this process, in the folder of the test: exit code, what it printed, what it complained of."""
    from avcompress.cli.process import _exit_code

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = _exit_code(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def vehicle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes `ssh` this machine's sh, in whose temporary folder nothing may stay; what starts avcompress there."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "there").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$0.log"\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "there"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return f"PYTHONPATH={os.pathsep.join(sys.path)} {sys.executable} -m avcompress"
