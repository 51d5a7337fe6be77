"""What post-processing costs on the CPU: decoding, suppression, class maps; ours against others.

    python benchmarks/postprocess_cost.py --data-root DATA [--images N] [--runs N]

Suppression (NMS): 3,549 anchors, 80 classes, overlap 0.65. `random` are scattered boxes of 5 to 90 pixels: `a class
each` has one label an anchor, which is what our decoders hand over; `every class` has all 283,920 pairs of anchor and
class. `YOLOX-nano` are its outputs on COCO images, decoded at the score threshold. The time is of one call, the median
over the runs and then over the images; `worst` is the slowest image's median.
`equal` says how many of the images, or random sets, give exactly the rows of the plain loop in its order: by ours, by
OpenCV, by torchvision. OpenCV and torchvision shift the classes apart instead of comparing them, which rounds, and have
no largest number to keep.
Threads: NumPy's work here is single-threaded; OpenCV gets one, as does torch. Prints tables in Markdown.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avcompress.recipe import CocoSource, Detection
from engines.nms import keep_best
from engines.postprocess import Detections, decode, segment

ROOT = Path(__file__).resolve().parents[1]
IOU = 0.65
Keep = Callable[[Detections, int], NDArray[Any]]


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"), required=False)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    cv2.setNumThreads(1)
    outputs = list(yolox_outputs(arguments.data_root, arguments.images))
    show_decoding(outputs, arguments.runs)
    show_suppression(outputs, arguments.runs)
    show_class_maps(arguments.runs)


def show_decoding(outputs: list[NDArray[np.float32]], runs: int) -> None:
    print("| decoding YOLOX-nano | candidates, median | most | median, ms | worst, ms |\n|---|---|---|---|---|")
    for threshold in (0.001, 0.3):
        task = settings(threshold)
        counts = [len(decode({"y": output}, task, (416, 416)).scores) for output in outputs]
        times = [median_ms(partial(decode, {"y": output}, task, (416, 416)), runs) for output in outputs]
        print(f"| at {threshold} | {statistics.median(counts):.0f} | {max(counts)} | {spread(times)} |")


def show_suppression(outputs: list[NDArray[np.float32]], runs: int) -> None:
    print("\n| suppression | keep at most | ours, ms | worst, ms | OpenCV, ms | torchvision, ms | equal |")
    print("|---|---|---|---|---|---|---|")
    cases = {
        "random, a class each": [random_boxes(3549, 80)],
        "random, one class": [random_boxes(3549, 1)],
        "random, every class": [every_class(random_boxes(3549, 1), 80)],
    } | {
        f"YOLOX-nano at {threshold}": [decode({"y": output}, settings(threshold), (416, 416)) for output in outputs]
        for threshold in (0.001, 0.3)
    }
    for name, sets in cases.items():
        many = len(sets[0].scores) > 10_000
        for limit in (100, 1000) if many else (100, 1000, 1_000_000):
            truths = [by_loop(found, limit) for found in sets]
            # OpenCV takes minutes for every class.
            rows = [measure(keep, sets, limit, truths, runs) for keep in peers(without_opencv=many)]
            ours, opencv, torch = (row or ("–", "–", "–") for row in rows)
            equal = ", ".join((ours[2], opencv[2], torch[2]))
            print(f"| {name} | {limit} | {ours[0]} | {ours[1]} | {opencv[0]} | {torch[0]} | {equal} |")


def peers(without_opencv: bool) -> Iterator[Keep | None]:
    """Ours first."""
    yield lambda found, limit: keep_best(found.xyxy, found.scores, found.labels, IOU, limit)
    yield None if without_opencv else opencv
    yield torchvision_or_none()


def measure(
    keep: Keep | None, sets: list[Detections], limit: int, truths: list[list[int]], runs: int
) -> tuple[str, str, str] | None:
    """The median, the worst, and how many are equal to the loop."""
    if keep is None:
        return None
    times = [median_ms(partial(keep, found, limit), runs) for found in sets]
    same = [list(keep(found, limit)) == truth for found, truth in zip(sets, truths, strict=True)]
    return f"{statistics.median(times):.2f}", f"{max(times):.2f}", f"{sum(same)} of {len(same)}"


def opencv(found: Detections, limit: int) -> NDArray[Any]:
    xywh = np.concatenate([found.xyxy[:, :2], found.xyxy[:, 2:] - found.xyxy[:, :2]], axis=1).astype(np.float64)
    return np.asarray(cv2.dnn.NMSBoxesBatched(xywh, found.scores, found.labels.astype(np.int32), 0.0, IOU))[:limit]


def torchvision_or_none() -> Keep | None:
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError):
        return None
    torch.set_num_threads(1)

    def keep(found: Detections, limit: int) -> NDArray[Any]:
        tensors = (torch.from_numpy(values) for values in (found.xyxy, found.scores, found.labels))
        kept: NDArray[Any] = torchvision.ops.batched_nms(*tensors, IOU)[:limit].numpy()
        return kept

    return keep


def by_loop(found: Detections, limit: int) -> list[int]:
    """The definition: one box after another, against each one kept; a row at a time, in float32."""
    low, high = found.xyxy[:, :2], found.xyxy[:, 2:]
    area = np.maximum(high - low, 0).prod(axis=1)
    kept: list[int] = []
    for row in np.argsort(-found.scores, kind="stable").tolist():
        sides = np.maximum(np.minimum(high[row], high[kept]) - np.maximum(low[row], low[kept]), 0)
        shared = sides[:, 0] * sides[:, 1]
        above = shared > np.float32(IOU) * (area[row] + area[kept] - shared)
        if not (above & (found.labels[kept] == found.labels[row])).any():
            kept.append(row)
        if len(kept) == limit:
            break
    return kept


def show_class_maps(runs: int) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (1, 12, 360, 480)).astype(np.float32)
    print("\n| class map 360x480 of 12 classes | ours, ms | numpy.argmax, ms |\n|---|---|---|")
    for height, width in ((360, 480), (180, 240), (45, 60)):
        given = np.ascontiguousarray(logits[:, :, :height, :width])
        ours = median_ms(partial(segment, {"y": given}, (360, 480)), runs)
        plain = median_ms(lambda given=given: resized(given[0], 480, 360).argmax(axis=0), runs)
        print(f"| of logits {height}x{width} | {ours:.2f} | {plain:.2f} |")


def resized(planes: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    if planes.shape[1:] == (height, width):
        return planes
    return np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in planes])


def yolox_outputs(data_root: Path, images: int) -> Iterator[NDArray[np.float32]]:
    from avcompress.recipe_load import load_recipe
    from calibration.batches import Batches
    from calibration.source import open_source
    from engines.ort import open_ort

    recipe = load_recipe(ROOT / "recipes" / "yolox_nano_coco.yaml")
    source = CocoSource(
        format="coco",
        images="coco_mini/val2017",
        labels="coco_mini/annotations/instances_val2017.json",
        limit=images,
    )
    with open_ort(data_root / "models" / "yolox_nano.onnx", optimize=True, threads=1) as session:
        for batch in Batches(open_source(source, data_root), recipe.preprocess, "images"):
            yield from (np.asarray(output, np.float32) for output in session.run(dict(batch)).values())


def settings(threshold: float) -> Detection:
    return Detection(kind="detection", decode="yolox", score_threshold=threshold)


def random_boxes(count: int, classes: int) -> Detections:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (count, 2))
    xyxy = np.concatenate([corners, corners + rng.uniform(5, 90, (count, 2))], axis=1).astype(np.float32)
    return Detections(xyxy, rng.random(count).astype(np.float32), rng.integers(0, classes, count))


def every_class(found: Detections, classes: int) -> Detections:
    count = len(found.scores)
    scores = np.random.default_rng(1).random(count * classes).astype(np.float32)
    return Detections(np.repeat(found.xyxy, classes, axis=0), scores, np.tile(np.arange(classes), count))


def median_ms(call: Callable[[], object], runs: int) -> float:
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def spread(times: Iterable[float]) -> str:
    values = list(times)
    return f"{statistics.median(values):.2f} | {max(values):.2f}"


if __name__ == "__main__":
    main()
