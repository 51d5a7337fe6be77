"""A machine with a GPU and TensorRT of any version: fakes of both, for this process and for the child."""

import json
import sys
from pathlib import Path

import pytest

from engines.tensorrt import build, configure, worker
from engines.tensorrt.device import Device

FAKE = Path(__file__).parent / "fake"
ORIN = Device("Orin", "8.7", "CUDA 12.6")


@pytest.fixture
def tensorrt(monkeypatch):
    """Let `tensorrt` be the fake, of a version, with what goes wrong; there is a GPU, too."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setattr(configure, "find_device", lambda: ORIN)
    monkeypatch.setattr("engines.build.find_device", lambda: ORIN)

    def use(version="10.3.0", **setup):
        monkeypatch.setenv("FAKE_TENSORRT", json.dumps({"version": version, **setup}))
        sys.modules.pop("tensorrt", None)

    use()
    yield use
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def in_process(monkeypatch):
    """Run the worker in this process: a child of its own for every case would take half a second each."""

    def run(onnx, folder, settings, track):
        (folder / worker.SETTINGS).write_text(settings.model_dump_json())
        worker.main([str(onnx), str(folder), "0"])
        return json.loads((folder / worker.RESULT).read_text())

    monkeypatch.setattr(worker, "_die_with", lambda _: None)
    monkeypatch.setattr(build, "run_child", run)
