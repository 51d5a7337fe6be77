"""How long the best choice of precisions takes to find: networks of 300 layers with 4 precisions.

    python benchmarks/mixed_solve.py [--layers 300] [--networks 5] [--limit 5]

Chains of layers with skips, as in residual and feature-pyramid networks; sizes, times and losses are drawn at random,
times by the roofline of a small GPU, losses over four decades. Every conversion takes time. For each network the
integer program is asked at three budgets of time and three of loss, to a proven gap of 1e-6; the greedy choice stands
beside. Ends with 1 where one takes longer than the limit, in seconds, or is not proven.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from avcompress.search.solve.greedy import solve_greedily  # noqa: E402
from avcompress.search.solve.problem import Budget, Link, Problem  # noqa: E402
from avcompress.search.solve.program import solve_exactly  # noqa: E402

PRECISIONS = ("fp32", "fp16", "int8", "fp8")
BYTES = np.array([4.0, 2.0, 1.0, 1.0])
PEAK = np.array([5e12, 20e12, 40e12, 40e12])
BANDWIDTH = 100e9
SHARES = (0.25, 0.5, 0.75)


def main() -> None:
    """Print a line for each network and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=300)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--limit", type=float, default=5.0)
    arguments = parser.parse_args()
    print("| network | budget | program: s | of processors: s | proven | program | greedy | greedy: s |")
    print("|---|---|---|---|---|---|---|---|")
    slowest, proven = 0.0, True
    for seed in range(arguments.networks):
        problem = drawn(arguments.layers, seed)
        for budget in budgets(problem):
            start, before = time.perf_counter(), time.process_time()
            best = solve_exactly(problem, budget)
            seconds, worked = time.perf_counter() - start, time.process_time() - before
            start = time.perf_counter()
            near = solve_greedily(problem, budget)
            beside = time.perf_counter() - start
            asked = f"{budget.ms:.3g} ms" if budget.ms is not None else f"loss {budget.loss:.3g}"
            exact, greedy = (f"{each.loss if budget.ms is not None else each.ms:.5g}" for each in (best, near))
            taken = f"{seconds:.2f} | {worked:.2f} | {best.proven}"
            print(f"| {seed} | {asked} | {taken} | {exact} | {greedy} | {beside:.2f} |", flush=True)
            slowest, proven = max(slowest, seconds), proven and best.proven
    print(f"\nslowest {slowest:.2f} s, limit {arguments.limit:g} s")
    sys.exit(0 if proven and slowest <= arguments.limit else 1)


def drawn(layers: int, seed: int) -> Problem:
    """A network of so many layers by chance."""
    random = np.random.default_rng(seed)
    values = random.uniform(0.05e6, 2e6, layers)
    operations = values * random.uniform(50, 2000, layers)
    times = np.maximum(operations[:, None] / PEAK, values[:, None] * 2 * BYTES / BANDWIDTH) * 1e3
    losses = 10 ** random.uniform(-5, -1, layers)[:, None] * np.array([0, 0.002, 1.0, 0.4])
    losses *= random.uniform(0.5, 2, losses.shape)
    pairs = {(i, i + 1) for i in range(layers - 1)}
    pairs |= {(i, min(i + int(random.integers(2, 40)), layers - 1)) for i in range(0, layers - 3, 4)}
    links = tuple(Link(a, b, converting(float(values[a]))) for a, b in sorted(pairs))
    return Problem(
        names=tuple(f"layer{i}" for i in range(layers)),
        options=(PRECISIONS,) * layers,
        losses=tuple(losses),
        ms=tuple(times),
        links=links,
    )


def converting(values: float) -> np.ndarray:
    """(4, 4) ms: a launch, and the memory that is read and written."""
    costs = 0.003 + values * (BYTES[:, None] + BYTES[None]) / BANDWIDTH * 1e3
    np.fill_diagonal(costs, 0)
    return costs


def budgets(problem: Problem) -> list[Budget]:
    """Three of time and three of loss, between what is fastest and what loses nothing."""
    exact = problem.taken_ms((0,) * len(problem.names))
    fast = solve_exactly(problem, Budget(loss=float("inf"))).ms
    worst = problem.loss((2,) * len(problem.names))
    times = [Budget(ms=fast + share * (exact - fast)) for share in SHARES]
    return [*times, *(Budget(loss=share**3 * worst) for share in SHARES)]


if __name__ == "__main__":
    main()
