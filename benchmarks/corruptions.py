"""What corrupted images look like, and what corrupting costs.

    python benchmarks/corruptions.py sheet --out docs/corruptions.jpg [--image FILE] [--tile WIDTH]
    python benchmarks/corruptions.py cost [--runs N]

`sheet` draws one row a corruption and one column a severity, the clean image first; without --image a rendered scene,
another one in each row. `cost` prints milliseconds an image of 640x480, the median over the runs, OpenCV with one
thread, as a table in Markdown.
"""

import argparse
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from avcompress.recipe import SceneSource
from calibration.scenes import open_scenes
from validation.corruptions import NAMES, SEVERITIES, corrupt, image_seed

SEED = 8
MARGIN = 92


def main() -> None:
    """Draw, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True)
    sheet = what.add_parser("sheet")
    sheet.add_argument("--out", type=Path, required=True)
    sheet.add_argument("--image", type=Path)
    sheet.add_argument("--tile", type=int, default=208, help="width of one picture, in pixels")
    sheet.add_argument("--quality", type=int, default=68)
    sheet.add_argument("--seed", type=int, default=SEED)
    sheet.set_defaults(run=draw)
    cost = what.add_parser("cost")
    cost.add_argument("--runs", type=int, default=30)
    cost.set_defaults(run=measure)
    args = parser.parse_args()
    args.run(args)


def draw(args: argparse.Namespace) -> None:
    scenes = open_scenes(SceneSource(format="scenes", count=len(NAMES), seed=args.seed, size=(360, 600)))
    file = None if args.image is None else np.asarray(Image.open(args.image).convert("RGB"))
    rows = []
    for index, name in enumerate(NAMES):
        image = scenes[index].image if file is None else file
        seed = image_seed(f"{index}", name, args.seed)
        pictures = [image, *(corrupt(image, name, severity, seed) for severity in SEVERITIES)]
        rows.append(np.hstack([_tile(picture, args.tile) for picture in pictures]))
    sheet = Image.new("RGB", (MARGIN + rows[0].shape[1], sum(len(row) for row in rows) + 18), "white")
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(["clean", *map(str, SEVERITIES)]):
        pen.text((MARGIN + args.tile * (column + 0.5), 4), title, fill="black", anchor="ma")
    top = 18
    for name, row in zip(NAMES, rows, strict=True):
        sheet.paste(Image.fromarray(row), (MARGIN, top))
        pen.text((6, top + len(row) / 2), name, fill="black", anchor="lm")
        top += len(row)
    sheet.save(args.out, quality=args.quality, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


def _tile(image: np.ndarray, width: int) -> np.ndarray:
    height = round(image.shape[0] * width / image.shape[1])
    tile = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    tile[-2:], tile[:, -2:] = 255, 255
    return tile


def measure(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    image = open_scenes(SceneSource(format="scenes", count=1, size=(480, 640)))[0].image
    print("| corruption | severity 1, ms | severity 5, ms |\n|---|---|---|")
    for name in NAMES:
        times = [_median_ms(image, name, severity, args.runs) for severity in (1, 5)]
        print(f"| {name} | {times[0]:.1f} | {times[1]:.1f} |")


def _median_ms(image: np.ndarray, name: str, severity: int, runs: int) -> float:
    samples = []
    for seed in range(runs):
        start = time.perf_counter()
        corrupt(image, name, severity, seed)
        samples.append((time.perf_counter() - start) * 1000)
    return statistics.median(samples)


if __name__ == "__main__":
    main()
