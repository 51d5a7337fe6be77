"""What COCO's figures of detections cost: ours against faster-coco-eval, and the bootstrap over them.

    python benchmarks/detection_cost.py [--images N] [--resamples N]

Synthetic images of 640 pixels: seven objects each on average, of 80 classes of which a few are frequent; 20 to 100
detections an image, some on the objects and shaken, some a second time, most of them false alarms of low score.
`faster-coco-eval` is its evaluate and accumulate, without building its records and index, which are told beside it;
ours is everything from arrays to figures, with what the operating point and calibration need. Each in its own process,
one thread. `equal` is the largest difference of AP, AP50, AP75, by size, AR, and of AP and AP50 by class.
The bootstrap is of 1,000 such images: every figure, overall and by class, of each resample.
Ends with 1 when ours takes more than 1.2 times faster-coco-eval's time, or the bootstrap 20 seconds.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from validation.bootstrap import resample_weights
from validation.detection import detection_metric_names, tally_boxes
from validation.predictions import BoxPredictions
from validation.truth import Objects, Truth

CLASSES = tuple(f"class {index}" for index in range(80))
BOOTSTRAP_IMAGES = 1000
LIMIT, LIMIT_S = 1.2, 20.0
Figures = dict[str, float]


class Labelled(NamedTuple):
    """Labels, and detections of them."""

    truth: Truth
    found: BoxPredictions


def main() -> int:
    """Measure each in a process of its own, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--only", choices=tuple(MEASURED), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        sys.stdout.write(json.dumps(MEASURED[arguments.only](arguments.images, arguments.resamples)))
        return 0
    measured = {name: in_child(name, arguments.images, arguments.resamples) for name in MEASURED}
    ours, theirs, bootstrap = (measured[name] for name in MEASURED)
    share = ours["seconds"] / theirs["seconds"]
    print("| what | seconds | peak memory, MB | beside |\n|---|---|---|---|")
    print(row(f"ours, {arguments.images} images", ours, f"{share:.3f} times faster-coco-eval's time"))
    print(row("faster-coco-eval", theirs, f"records and index {theirs['before']:.1f} s more"))
    print(row(f"bootstrap, {arguments.resamples} resamples of {BOOTSTRAP_IMAGES} images", bootstrap, ""))
    print(f"\nequal to {difference(ours['figures'], theirs['figures']):.1e}")
    return int(share > LIMIT or bootstrap["seconds"] > LIMIT_S)


def row(what: str, measured: dict[str, Any], beside: str) -> str:
    return f"| {what} | {measured['seconds']:.2f} | {measured['megabytes']:.0f} | {beside} |"


def in_child(name: str, images: int, resamples: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--only", name, "--images", str(images), "--resamples", str(resamples)]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | one_thread)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def ours(images: int, _: int) -> dict[str, Any]:
    truth, found = synthetic(images)
    start = time.perf_counter()
    figures = tally_boxes(truth, found, 0.3).figures(np.ones((images, 1)))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "megabytes": peak_megabytes(),
        "figures": {name: float(figures[name][0]) for name in detection_metric_names(CLASSES)},
    }


def bootstrap(_: int, resamples: int) -> dict[str, Any]:
    truth, found = synthetic(BOOTSTRAP_IMAGES)
    weights = resample_weights(BOOTSTRAP_IMAGES, resamples, seed=0)
    start = time.perf_counter()
    tally_boxes(truth, found, 0.3).figures(weights)
    return {"seconds": time.perf_counter() - start, "megabytes": peak_megabytes()}


def faster_coco_eval(images: int, _: int) -> dict[str, Any]:
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    labelled = synthetic(images)
    start = time.perf_counter()
    frame = {
        "images": [{"id": index + 1} for index in range(images)],
        "categories": [{"id": index} for index in range(len(CLASSES))],
    }
    sides = [COCO(frame | {"annotations": annotations}) for annotations in records(labelled)]
    judge = COCOeval_faster(*sides, iouType="bbox")
    judge.params.maxDets = [100]
    ready = time.perf_counter()
    judge.evaluate()
    judge.accumulate()
    seconds = time.perf_counter() - ready
    return {
        "seconds": seconds,
        "before": ready - start,
        "megabytes": peak_megabytes(),
        "figures": coco_figures(judge.eval["precision"][..., -1], judge.eval["recall"][..., -1]),
    }


MEASURED = {"ours": ours, "faster-coco-eval": faster_coco_eval, "bootstrap": bootstrap}


def records(labelled: Labelled) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    objects, found = labelled.truth.objects, labelled.found
    if objects is None:
        raise ValueError("expected labelled boxes, got none")
    crowd, area = objects.ignore.astype(int).tolist(), objects.area.tolist()
    labelled_boxes = zip(objects.image.tolist(), objects.labels.tolist(), xywh(objects.xyxy), crowd, area, strict=True)
    found_boxes = zip(found.image.tolist(), found.labels.tolist(), xywh(found.xyxy), found.scores.tolist(), strict=True)
    return [
        {"id": number, "image_id": image + 1, "category_id": label, "bbox": box, "iscrowd": ignored, "area": size}
        for number, (image, label, box, ignored, size) in enumerate(labelled_boxes, 1)
    ], [
        {"id": number, "image_id": image + 1, "category_id": label, "bbox": box, "iscrowd": 0, "score": score,
         "area": box[2] * box[3]}
        for number, (image, label, box, score) in enumerate(found_boxes, 1)
    ]  # fmt: skip


def xywh(xyxy: NDArray[Any]) -> list[list[float]]:
    corners = xyxy.astype(np.float64)
    boxes: list[list[float]] = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()
    return boxes


def coco_figures(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> Figures:
    """From (overlap, recall, class, size) and (overlap, class, size), -1 where there is nothing to find."""
    sizes = {"AP": 0, "AP_small": 1, "AP_medium": 2, "AP_large": 3}
    found = {name: mean(precision[..., size]) for name, size in sizes.items()}
    found |= {"AP50": mean(precision[0, ..., 0]), "AP75": mean(precision[5, ..., 0]), "AR": mean(recall[..., 0])}
    for index, name in enumerate(CLASSES):
        found[f"AP/{name}"] = mean(precision[:, :, index, 0])
        found[f"AP50/{name}"] = mean(precision[0, :, index, 0])
    return found


def mean(values: NDArray[np.float64]) -> float:
    kept = values[values > -1]
    return float(kept.mean()) if kept.size else float("nan")


def difference(first: Figures, second: Figures) -> float:
    if first.keys() != second.keys():
        raise ValueError("expected figures of the same names, got others")
    apart = [abs(first[name] - second[name]) for name in first]
    nan = [np.isnan(first[name]) != np.isnan(second[name]) for name in first]
    return float("inf") if any(nan) else float(np.nanmax(apart))


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def synthetic(images: int) -> Labelled:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, len(CLASSES) + 1)
    share /= share.sum()
    image = np.repeat(np.arange(images), rng.poisson(7, images))
    sides, boxes = scattered(rng, len(image))
    labels = rng.choice(len(CLASSES), len(image), p=share)
    objects = Objects(
        image, boxes.astype(np.float32), labels, rng.random(len(image)) < 0.01, 0.7 * sides.prod(axis=1), {}
    )
    # Nine of ten objects are found, some of them several times, some as another class.
    of = np.repeat(np.arange(len(image)), rng.poisson(2.5, len(image)) * (rng.random(len(image)) < 0.9))
    near = boxes[of] + rng.normal(0, 0.12, (len(of), 4)) * np.tile(sides, 2)[of]
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    as_what = np.where(rng.random(len(of)) < 0.9, labels[of], rng.choice(len(CLASSES), len(of), p=share))
    more = np.maximum(rng.integers(20, 101, images) - np.bincount(image[of], minlength=images), 0)
    _, far = scattered(rng, int(more.sum()))
    where = np.concatenate([image[of], np.repeat(np.arange(images), more)])
    order = np.argsort(where, kind="stable")
    names = tuple(f"{index:06}.jpg" for index in range(images))
    found = BoxPredictions(
        names,
        where[order],
        np.concatenate([near, far])[order].astype(np.float32),
        np.concatenate([rng.beta(2, 3, len(of)), rng.beta(0.5, 8, len(far))])[order].astype(np.float32),
        np.concatenate([as_what, rng.choice(len(CLASSES), len(far), p=share)])[order],
    )
    pixels, brightness = np.full((images, 2), 640, np.int32), np.full(images, 128, np.float32)
    return Labelled(Truth(names, CLASSES, "", pixels, brightness, {}, objects), found)


def scattered(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sides (N, 2), most of some 70 pixels, and boxes (N, 4)."""
    sides = np.exp(rng.normal(4.2, 0.9, (count, 2))).clip(4, 500)
    middle = rng.uniform(0, 640, (count, 2))
    return sides, np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)


if __name__ == "__main__":
    sys.exit(main())
