"""What the drift watch costs, what it tells, and how often it tells what is not so.

    python benchmarks/drift_watch.py --data-root DATA [--threads 2] [--pairs 300]

Cost: YOLOX-nano on OpenVINO, one image after the other; beside each inference the watch looks at that image. Both in
processor time, which a busy machine changes less. Alarms: bands from the input and outputs on calibration images; then
drives, image by image as a vehicle that compares each one (`drift_every: 1`), at the default settings. `false` is the
share of images during which a drive was told as one that is unlike those of calibration; `told after` are the images
from the first that was changed to the warning. The network is the float YOLOX-nano by ONNX Runtime. Ends with 1 where
the mean cost of an image at the default, every 10th compared, is above 0.2 ms and 1 % of the inference at once, or
where an image is told that is no video of another camera.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from replay_speed import make_bundle

LIMIT_MS, LIMIT_SHARE = 0.2, 0.01
CHANGES: dict[str, Callable[[Any], Any]] = {
    "dark (a quarter of the light)": lambda image: (image * 0.25).astype(np.uint8),
    "overexposed (2.2 times and 40 levels)": lambda image: np.clip(image * 2.2 + 40, 0, 255).astype(np.uint8),
    "red and blue exchanged": lambda image: np.ascontiguousarray(image[:, :, ::-1]),
}


def main() -> int:
    """Measure both, and print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=300)
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    cheap = measure_cost(arguments.data_root, arguments.threads, arguments.pairs)
    right = measure_alarms(arguments.data_root)
    return 0 if cheap and right else 1


# --- cost


def measure_cost(root: Path, threads: int, pairs: int) -> bool:
    """Whether a watched image costs little."""
    from calibration.frame import Header, RawImage
    from engines.bundle import Trust
    from ros_nodes.core.drift_watch import DriftWatch, Glance
    from ros_nodes.core.served import infer, load_served, prepare
    from ros_nodes.core.settings import Settings

    with tempfile.TemporaryDirectory() as temporary:
        folder = make_bundle(root, Path(temporary) / "bundle", threads)
        served = load_served(folder, Trust(allow_unsigned=True), 1, 5)
    watches = {every: DriftWatch(Settings(bundle="", cameras=("front",), drift_every=every)) for every in (1, 10)}
    images = list(frames(root / "video" / "intel_car-detection.mp4", 10))
    inference, watched = [], {every: [] for every in watches}
    for i in range(pairs):
        image = images[i % len(images)]
        frame = RawImage(Header(i, 0, ""), *image.shape[:2], "rgb8", image.shape[1] * 3, image.reshape(-1))
        prepared = prepare(served, image)
        begun = time.process_time()
        (outputs,) = infer(served, [prepared])
        inference.append(time.process_time() - begun)
        for every, watch in watches.items():
            begun = time.thread_time()
            watch.look(served, [Glance("front", frame, prepared, outputs)], i)
            watched[every].append(time.thread_time() - begun)
    served.session.close()
    base = 1e3 * np.median(inference)
    print("| images compared | ms an image: mean, p99 | share of the inference, % |\n|---|---|---|")
    means = {every: 1e3 * float(np.mean(times)) for every, times in watched.items()}
    for every, times in watched.items():
        p99 = 1e3 * np.percentile(times, 99)
        name = "each" if every == 1 else f"every {every}th"
        print(f"| {name} | {means[every]:.4f}, {p99:.4f} | {100 * means[every] / base:.2f} |")
    print(f"\ninference: {base:.2f} ms in the middle, {threads} threads, {pairs} images\n")
    return means[10] <= LIMIT_MS or means[10] <= LIMIT_SHARE * base


def frames(film: Path, step: int) -> Iterator[Any]:
    """Every n-th frame of a video, RGB."""
    video, index = cv2.VideoCapture(str(film)), 0
    while (read := video.read())[0]:
        if index % step == 0:
            yield np.ascontiguousarray(read[1][:, :, ::-1])
        index += 1


# --- alarms


def measure_alarms(root: Path) -> bool:
    """Whether no image of a drive like those of calibration is told."""
    figures = figures_by_network(root)
    camvid = [read(path) for path in sorted((root / "camvid/images/train").iterdir())]
    after = [read(path) for path in sorted((root / "camvid/images/val").iterdir())]
    coco = [read(path) for path in sorted((root / "coco_tune").rglob("*.jpg"))[:400]]
    others = [read(path) for path in sorted((root / "coco_mini/val2017").glob("*.jpg"))]
    kitti = [read(path) for path in sorted((root / "kitti_mini/training").rglob("*.png"))]
    films = {path.stem: list(frames(path, 3)) for path in sorted((root / "video").glob("*.mp4"))}
    trials = (
        ("every 6th image of CamVid's train drives", camvid[::6], {"CamVid, val": after, "CamVid, train": camvid}),
        (
            "128 images of COCO",
            coco[:128],
            {"COCO, val2017": others, "COCO, others": coco[128:], "CamVid, val": after, "KITTI": kitti, **films},
        ),
    )
    print("| calibrated on | drive | images | false, % |" + "".join(f" {name}: told after |" for name in CHANGES))
    print("|---|---|---|---|" + "---|" * len(CHANGES))
    false = 0
    for name, images, drives in trials:
        known = familiar([figures(image) for image in images])
        for drive, shown in drives.items():
            told = watched(known, [figures(image) for image in shown])
            # Video of another camera is no drive like those of calibration: what is told there may well be so.
            false += 0 if drive in films else sum(told)
            delays = [delay(known, shown, change, figures) for change in CHANGES.values()]
            cells = "".join(f" {found} |" for found in delays)
            print(f"| {name} | {drive} | {len(shown)} | {100 * sum(told) / len(told):.1f} |{cells}", flush=True)
    return false == 0


def read(path: Path) -> Any:
    """An image, RGB."""
    from calibration.decode import decode_image

    return decode_image(path)


def figures_by_network(root: Path) -> Callable[[Any], dict[str, float]]:
    """What takes an image's figures, those of the outputs of YOLOX-nano among them."""
    from avcompress.recipe import Preprocess
    from calibration.figures import input_figures, output_figures
    from calibration.preprocess import preprocess
    from engines.ort import open_ort

    settings = Preprocess(size=(416, 416), anchor="top_left", channels="bgr")
    session = open_ort(root / "models" / "yolox_nano.onnx", optimize=True)
    (name,) = session.inputs

    def figures(image: Any) -> dict[str, float]:
        value, geometry = preprocess(image, settings)
        return {**input_figures(value, geometry, settings), **output_figures(session.run({name: value}))}

    return figures


def familiar(rows: list[dict[str, float]]) -> Any:
    """The bands of calibration images."""
    from avcompress.running.provenance import bands

    return bands({name: np.array([row[name] for row in rows], np.float32) for name in rows[0]})


def watched(known: Any, rows: Iterable[dict[str, float]]) -> list[bool]:
    """Whether each image was told as one that is unlike those of calibration."""
    from ros_nodes.core.drift import CameraDrift
    from ros_nodes.core.settings import Settings

    settings, camera, told = Settings(bundle=""), CameraDrift(), []
    for row in rows:
        camera.look(row, known, settings.drift_tolerance, settings.drift_after)
        told.append(camera.drifting)
    return told


def delay(known: Any, shown: list[Any], change: Callable[[Any], Any], figures: Callable[[Any], Any]) -> str:
    """After 30 images as they are, how many changed ones it took."""
    before = [figures(image) for image in shown[:30]]
    changed = [figures(change(image)) for image in (shown * 4)[30:130]]
    told = watched(known, [*before, *changed])[len(before) :]
    return str(told.index(True) + 1) if True in told else "never"


if __name__ == "__main__":
    sys.exit(main())
