"""What a session costs over the raw runtime call: paired, interleaved, in one run.

    python benchmarks/session_overhead.py --data-root DATA [--pairs N] [--threads N] [--network NET.onnx]

YOLOX-nano at 416x416 by OpenVINO, and by ONNX Runtime with its optimizations on. `ours` is `Session.run`: it checks
the inputs, runs, and hands back arrays that are the caller's own. `raw` is the same request (OpenVINO: inputs and
outputs shared, nothing copied) or the same session (ONNX Runtime: its outputs are new arrays) called directly with the
same input. The two take turns, and turns about who is first. The overhead is the median difference of the pairs
over the median raw time; the interval is a bootstrap over the pairs, 95 %. Ends with 1 when its end is above the limit.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMIT = 0.03
WARMUP = 30
RESAMPLES = 2000
Times = NDArray[np.float64]


def main() -> int:
    """Measure both runtimes, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"), required=False)
    parser.add_argument("--network", type=Path, help="another ONNX file of static shapes")
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.network is None and arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA, or give --network")
    network = arguments.network or arguments.data_root / "models" / "yolox_nano.onnx"
    print("| runtime | raw, ms | ours minus raw, us | overhead, % | 95 % interval | kept |\n|---|---|---|---|---|---|")
    kept = True
    for name, opened in (("OpenVINO", openvino_pair), ("ONNX Runtime", ort_pair)):
        with opened(network, arguments.threads) as (ours, raw):
            times = take_turns(ours, raw, arguments.pairs)
        middle, low, high = overhead(times)
        kept &= high <= LIMIT
        extra, base = np.median(times[:, 0] - times[:, 1]), np.median(times[:, 1])
        interval = f"{100 * low:.2f} to {100 * high:.2f}"
        print(f"| {name} | {1e3 * base:.3f} | {1e6 * extra:.0f} | {100 * middle:.2f} | {interval} | {high <= LIMIT} |")
    print(f"\n{arguments.pairs} pairs, {arguments.threads} threads, {network.name}; limit {100 * LIMIT:g} %")
    return 0 if kept else 1


@contextmanager
def openvino_pair(network: Path, threads: int) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Our call and the raw one, on one infer request."""
    from avcompress.recipe import OpenVinoEngine
    from engines.openvino import build_openvino, open_openvino

    settings = OpenVinoEngine(backend="openvino", threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        build_openvino(network, Path(folder), settings)
        with open_openvino(Path(folder), settings) as session:
            feed, request = random_inputs(session.inputs), session._request
            yield lambda: session.run(feed), lambda: request.infer(feed, share_inputs=True, share_outputs=True)


@contextmanager
def ort_pair(network: Path, threads: int) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Our call and the raw one, on one session."""
    from engines.ort import open_ort

    with open_ort(network, optimize=True, threads=threads) as session:
        feed, names, raw = random_inputs(session.inputs), list(session.outputs), session._session
        yield lambda: session.run(feed), lambda: raw.run(names, feed)


def random_inputs(shapes: Any) -> dict[str, NDArray[np.float32]]:
    """Pixels, 0-255."""
    rng = np.random.default_rng(0)
    return {name: (255 * rng.random(shape)).astype(np.float32) for name, shape in shapes.items()}


def take_turns(ours: Callable[[], object], raw: Callable[[], object], pairs: int) -> Times:
    """Seconds of ours and of raw, (pairs, 2); the order within a pair alternates."""
    for _ in range(WARMUP):
        ours()
        raw()
    times = np.empty((pairs, 2))
    for index in range(pairs):
        for which in (0, 1) if index % 2 else (1, 0):
            start = time.perf_counter()
            result = (ours, raw)[which]()
            times[index, which] = time.perf_counter() - start
            # Outside the clock: giving memory back is no part of either call.
            del result
    return times


def overhead(times: Times) -> tuple[float, float, float]:
    """The share by which ours is slower, with a bootstrapped 95 % interval.

    Args:
        times: (pairs, 2), ours and raw.
    """

    def share(rows: Times) -> Times:
        return np.median(rows[..., 0] - rows[..., 1], axis=-1) / np.median(rows[..., 1], axis=-1)

    rng = np.random.default_rng(0)
    drawn = np.array([share(times[rng.integers(0, len(times), len(times))]) for _ in range(RESAMPLES)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(share(times)), float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
