"""What calibration costs: memory by the number of images, time against one plain FP32 pass over the same images.

    python benchmarks/calibration_cost.py --data-root DATA [--repeats N]

YOLOX-nano at 416x416. Each figure is of a process of its own that does nothing else. `plain` reads, preprocesses and
runs every image once through ONNX Runtime with its defaults; `run alone` is the time inside the runtime only. Its
threads wait for work by spinning, which counts as processor time; `plain, no spinning` is what to hold that against.
`ptq` reads the network, calibrates and inserts Q/DQ. Prints a table in Markdown, and the limits with what they hold.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FEW, MANY = 128, 1000
WORK = ("plain", "plain, no spinning", "ptq", "ptq asymmetric", "ptq entropy", "calibrate")
PEAK_MB, GROWTH, TIMES = 700, 1.05, 3.0


def main() -> None:
    """Measure in child processes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"), required=False)
    parser.add_argument("--repeats", type=int, default=3, help="of each time; the median counts")
    parser.add_argument("--child", nargs=2, metavar=("WORK", "IMAGES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    if arguments.child:
        work, images = arguments.child
        print(json.dumps(measure(work, arguments.data_root, int(images))))
        return
    few = {work: child(work, FEW, arguments) for work in WORK}
    many = {work: child(work, MANY, arguments, repeats=1) for work in ("plain", "ptq", "calibrate")}
    show(few, many)


def child(work: str, images: int, arguments: argparse.Namespace, repeats: int | None = None) -> dict[str, float]:
    """The medians of several processes."""
    command = [sys.executable, __file__, "--data-root", str(arguments.data_root), "--child", work, str(images)]
    found = []
    for _ in range(repeats or arguments.repeats):
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(process.stdout))
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def measure(work: str, data_root: Path, images: int) -> dict[str, float]:
    """Do one kind of work; wall and processor seconds, peak memory of this process."""
    import resource

    from avcompress.recipe import CocoSource
    from avcompress.recipe_load import load_recipe
    from calibration.batches import Batches
    from calibration.source import open_source

    recipe = load_recipe(ROOT / "recipes" / "yolox_nano_coco.yaml")
    settings = CocoSource(format="coco", images="coco_tune/images", labels="coco_tune/instances.json", limit=images)
    batches = Batches(open_source(settings, data_root), recipe.preprocess, "images")
    file = data_root / "models" / "yolox_nano.onnx"
    wall, cpu = time.perf_counter(), time.process_time()
    seconds = {"plain": plain, "plain, no spinning": plain, "calibrate": calibrate}.get(work, ptq)(file, batches, work)
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "run_s": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def plain(file: Path, batches: Any, work: str) -> float:
    """One pass of the float network, and the seconds inside the runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    if work == "plain, no spinning":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    seconds = 0.0
    for batch in batches:
        start = time.perf_counter()
        session.run(None, dict(batch))
        seconds += time.perf_counter() - start
    return seconds


def ptq(file: Path, batches: Any, work: str) -> float:
    """The whole of post-training quantization, from the file to the quantized network in memory."""
    from avcompress.quant.stages.ptq import quantize
    from avcompress.recipe import Ptq
    from avcompress.spec import Artifact
    from engines.onnx_load import load_onnx

    changes: dict[str, Any] = {
        "ptq asymmetric": {"activations": "asymmetric"},
        "ptq entropy": {"ranges": "entropy"},
    }.get(work, {})
    quantize(Artifact(load_onnx(file, (416, 416))), Ptq(kind="ptq", **changes), batches)
    return 0.0


def calibrate(file: Path, batches: Any, work: str) -> float:  # noqa: ARG001
    """The statistics of every tensor that any settings may want, as `avcompress calibrate` gathers them."""
    from avcompress.quant.observe import observe
    from avcompress.quant.plan import prepare
    from avcompress.quant.stages.ptq import candidates
    from engines.onnx_load import load_onnx

    model = prepare(load_onnx(file, (416, 416)))
    observe(model, candidates(model), batches)
    return 0.0


def show(few: dict[str, dict[str, float]], many: dict[str, dict[str, float]]) -> None:
    """The table, and each limit with what was measured."""
    print("| work | images | wall s | CPU s | wall / plain | CPU / plain | wall / run alone | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for images, found in ((FEW, few), (MANY, many)):
        base = found["plain"]
        for work, each in found.items():
            ratios = (each["wall_s"] / base["wall_s"], each["cpu_s"] / base["cpu_s"], each["wall_s"] / base["run_s"])
            times = " | ".join(f"{ratio:.2f}" for ratio in ratios)
            print(
                f"| {work} | {images} | {each['wall_s']:.2f} | {each['cpu_s']:.2f} | {times} | {each['peak_mb']:.0f} |"
            )
    print(f"\ninside the runtime alone: {few['plain']['run_s']:.2f} s for {FEW} images")
    still = few["ptq"]["cpu_s"] / few["plain, no spinning"]["cpu_s"]
    print(f"processor time of ptq against plain without spinning: {still:.2f}")
    growth = many["ptq"]["peak_mb"] / few["ptq"]["peak_mb"]
    ratio = few["ptq"]["wall_s"] / few["plain"]["wall_s"]
    for what, value, limit in (
        (f"peak MB of ptq on {FEW} images", few["ptq"]["peak_mb"], PEAK_MB),
        (f"its growth to {MANY} images", growth, GROWTH),
        ("wall time of ptq against plain", ratio, TIMES),
    ):
        print(f"{'kept' if value <= limit else 'NOT KEPT'}: {what}: {value:.3g}, at most {limit:g}")


if __name__ == "__main__":
    main()
