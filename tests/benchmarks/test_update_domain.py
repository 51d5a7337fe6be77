"""benchmarks/update_domain.py: ESPNet learns CamVid in fog, and forgets no more than its bound."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_espnet_gains_in_fog_and_forgets_no_more_than_its_bound(data_root, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "update_domain.py"), "--data-root", str(data_root)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "espnet_fog-3" / "report.json").read_text())
    old, new = (each["comparisons"]["ort"]["slices"][0]["drop"]["mIoU"] for each in report["update"]["domains"])
    assert old["value"] <= 0.01
    assert new["high"] < -0.02  # a gain, proven by its interval
