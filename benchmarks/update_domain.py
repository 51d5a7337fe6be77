"""What an update gains on new images, and what it forgets: ESPNet, quantized by its recipe, then shown CamVid in fog.

    python benchmarks/update_domain.py --data-root DATA --out OUT [--corruption fog] [--severity 3] [--steps N]

Makes labelled images in bad weather of CamVid's (`avcompress run`, once, then `avcompress update`), and prints a table
in Markdown: mIoU of both versions on the validation images as they are and in that weather, the paired change with its
interval, and the seconds. Exit code: that of the update, 0 where nothing is forgotten beyond the bound and the gain is
there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from validation.corruptions import corrupt, image_seed

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "espnet_camvid.yaml"


def main() -> None:
    """Run, update, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corruption", default="fog")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=0.03)
    parser.add_argument(
        "--every", type=int, default=3, help="of the 367 training images, so many in bad weather: 1 in N"
    )
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    out, data = arguments.out.resolve(), arguments.data_root.resolve()
    weather = out / f"{arguments.corruption}-{arguments.severity}"
    spoil(data / "camvid" / "images", weather, arguments)
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe()))
    (out / "update.yaml").write_text(yaml.safe_dump(settings(weather, arguments)))
    first, second = out / "espnet", out / f"espnet_{weather.name}"
    if not (first / "report.json").exists():
        call("run", str(out / "recipe.yaml"), "--data-root", str(data), "--out", str(first))
    start = time.monotonic()
    code = call("update", str(first), str(out / "update.yaml"), "--data-root", str(data), "--out", str(second))
    seconds = time.monotonic() - start
    if code > 1:  # it has said why
        sys.exit(code)
    show(json.loads((second / "report.json").read_text()), seconds)
    sys.exit(code)


def spoil(images: Path, weather: Path, arguments: argparse.Namespace) -> None:
    """Write the images in bad weather: every n-th of the training images, and all of the validation images."""
    for part, every in (("train", arguments.every), ("val", 1)):
        folder = weather / part
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted((images / part).iterdir())[::every]:
            if not (folder / path.name).exists():
                seed = image_seed(path.name, arguments.corruption, 0)
                image = np.asarray(Image.open(path).convert("RGB"))
                Image.fromarray(corrupt(image, arguments.corruption, arguments.severity, seed)).save(folder / path.name)


def recipe() -> dict[str, Any]:
    """ESPNet's, for ONNX Runtime alone: what is measured here is accuracy."""
    facts: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    facts["model"]["import_from"] = str(ROOT / "examples")
    facts["target"] = {"engines": [{"backend": "ort"}]}
    facts["contract"] = {"accuracy": facts["contract"]["accuracy"]}
    return facts


def settings(weather: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The update: half of each batch is clear weather, taught by the version before; labels teach the rest."""

    def labelled(part: str) -> dict[str, Any]:
        labels = f"camvid/labels/{part}"
        return {"format": "masks", "images": str(weather / part), "labels": labels, "void": [11]}

    return {
        "name": arguments.corruption,
        "data": {
            "train": labelled("train"),
            "validation": labelled("val"),
            "replay": {"format": "images", "images": "camvid/images/train"},
        },
        "replay": {"share": 0.5},
        "qat": {"steps": arguments.steps, "batch_size": 4, "learning_rate": arguments.learning_rate},
        "forgetting": [{"metric": "mIoU", "max_drop": 0.01}],
        "gain": [{"metric": "mIoU", "min_gain": 0.02, "decide": "proven_kept"}],
    }


def call(*arguments: str) -> int:
    """A command of avcompress in a process of its own; its exit code."""
    return subprocess.run([sys.executable, "-m", "avcompress", *arguments], check=False).returncode


def show(report: dict[str, Any], seconds: float) -> None:
    """Print the table."""
    known = report["update"]
    print(f"\n| images | {known['metric']} before | after | change |\n|---|---|---|---|")
    for domain in known["domains"]:
        part = domain["comparisons"]["ort"]["slices"][0]
        before, after, drop = (part[name][known["metric"]] for name in ("reference", "network", "drop"))
        change = f"{-drop['value']:+.4f} ({-drop['high']:+.4f} to {-drop['low']:+.4f})"
        print(f"| {domain['name']} ({domain['images']}) | {before['value']:.4f} | {after['value']:.4f} | {change} |")
    print(f"\nthe update took {seconds:.0f} s")


if __name__ == "__main__":
    main()
