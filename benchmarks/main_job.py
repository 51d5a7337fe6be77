"""The README's figures: the real recipes, end to end, each in a process of its own.

    python benchmarks/main_job.py --data-root DATA [--out OUT]

Prints a table in Markdown: accuracy of the float network and of each engine, the share of multiply-accumulates in INT8,
how much faster than the float network the same engine runs (paired in one run), wall time and peak memory of the run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {"yolox_nano_coco": "AP", "yolox_nano_all_int8": "AP", "espnet_camvid": "mIoU"}


def main() -> None:
    """Run the recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"), required=False)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    out = arguments.out or Path(tempfile.mkdtemp(prefix="main_job_"))
    print(
        "| recipe | metric | float | INT8 by engine | MACs in INT8 | speed-up on OpenVINO | wall s | peak MB | exit |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, metric in RECIPES.items():
        print(row(name, metric, *run(name, arguments.data_root, out / name)), flush=True)
    print(f"\n`import avcompress`: {import_seconds():.3f} s, median of 10, a bare interpreter's start taken off")


def run(name: str, data_root: Path, out: Path) -> tuple[dict[str, Any], float, float, int]:
    """The report, wall seconds, peak megabytes of the largest process, exit code."""
    command = [sys.executable, "-m", "avcompress", "run", str(ROOT / "recipes" / f"{name}.yaml")]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--data-root", str(data_root), "--out", str(out), "--quiet"], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    report = json.loads((out / "report.json").read_text())
    return report, seconds, usage.ru_maxrss / 1024, process.returncode


def row(name: str, metric: str, report: dict[str, Any], seconds: float, peak: float, code: int) -> str:
    """One line of the table."""
    accuracy = report["accuracy"]
    engines = ", ".join(f"{engine} {found[metric]:.4f}" for engine, found in accuracy["engines"].items())
    macs = [(layer["macs"], layer["precision"] == "int8") for layer in report["layers"]]
    share = sum(count for count, int8 in macs if int8) / sum(count for count, _ in macs)
    latency = report["latency"]["openvino"]
    ratio = latency["float_total"]["p50_ms"] / latency["total"]["p50_ms"]
    figures = (
        f"{accuracy['reference'][metric]:.4f} | {engines} | {share:.1%} | {ratio:.2f} x | {seconds:.0f} | {peak:.0f}"
    )
    return f"| {name} | {metric} | {figures} | {code} |"


def import_seconds() -> float:
    """What `import avcompress` adds to a bare interpreter's start."""

    def median(code: str) -> float:
        times = []
        for _ in range(10):
            start = time.monotonic()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.monotonic() - start)
        return statistics.median(times)

    return median("import avcompress") - median("pass")


if __name__ == "__main__":
    main()
