"""A latency's distribution: percentiles with their bounds, jitter, misses; every sample is kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from validation.latency.bounds import CONFIDENCE, percentile_ranks

PERMILLE: Mapping[str, int] = MappingProxyType({"p50": 500, "p90": 900, "p99": 990, "p99.9": 999})
"""The percentiles that claims are made of, in thousandths."""
RUNS_NEEDED = {"p50": 1, "p90": 10, "p99": 100, "p99.9": 1000}
"""The least number of samples that leaves one observation at or beyond the percentile: 1 / (1 - p)."""
LATE = math.inf
"""The latency of an image that was dropped: it is later than any deadline."""


@dataclass(frozen=True)
class Latency:
    """Latencies in milliseconds, in the order in which they were measured; LATE where there was no result."""

    samples_ms: tuple[float, ...]

    def percentile(self, name: str) -> float:
        """p50, p90, p99 or p99.9 by nearest rank, so a latency that did occur; NaN where the samples are too few.

        Source: nearest-rank percentile, the ceil(p * n)-th smallest of n.
        """
        if len(self.samples_ms) < RUNS_NEEDED[name]:
            return math.nan
        rank = -(-PERMILLE[name] * len(self.samples_ms) // 1000)  # ceil in integers: 0.999 * 1000 is not exact
        return sorted(self.samples_ms)[rank - 1]

    def bounds(self, name: str, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """A lower and an upper bound of a percentile, each of which holds with this confidence by itself.

        Both did occur, too; NaN for a bound that so few samples cannot give: an upper one of p99.9 takes 2,995. They
        are exact whatever the distribution is, for samples that are independent of each other.

        Source: order statistics, see percentile_ranks.
        """
        ordered = sorted(self.samples_ms)
        ranks = percentile_ranks(len(ordered), PERMILLE[name] / 1000, confidence)
        low, high = (math.nan if rank is None else ordered[rank - 1] for rank in ranks)
        return low, high

    def missed(self, deadline_ms: float) -> int:
        """How many are later than the deadline."""
        return sum(sample > deadline_ms for sample in self.samples_ms)

    @property
    def p50(self) -> float:
        """The median."""
        return self.percentile("p50")

    @property
    def p90(self) -> float:
        """Nine in ten are no slower."""
        return self.percentile("p90")

    @property
    def p99(self) -> float:
        """NaN below 100 samples."""
        return self.percentile("p99")

    @property
    def p99_9(self) -> float:
        """NaN below 1,000 samples."""
        return self.percentile("p99.9")

    @property
    def mean(self) -> float:
        """The arithmetic mean; NaN without samples."""
        return math.fsum(self.samples_ms) / len(self.samples_ms) if self.samples_ms else math.nan

    @property
    def max(self) -> float:
        """The slowest; NaN without samples."""
        return max(self.samples_ms, default=math.nan)

    @property
    def deviation(self) -> float:
        """Jitter as the sample standard deviation; NaN below 2 samples."""
        count, mean = len(self.samples_ms), self.mean
        if count < 2:
            return math.nan
        return math.sqrt(math.fsum((sample - mean) ** 2 for sample in self.samples_ms) / (count - 1))

    @property
    def spread(self) -> float:
        """Jitter as the length of the tail, p99 - p50; NaN below 100 samples."""
        return self.p99 - self.p50

    @property
    def change(self) -> float:
        """Jitter as the mean absolute difference of consecutive samples; NaN below 2 samples.

        Source: RFC 3550, 6.4.1, whose |D(i-1, i)| it averages over all samples instead of the latest ones.
        """
        steps = [abs(after - before) for before, after in itertools.pairwise(self.samples_ms)]
        return math.fsum(steps) / len(steps) if steps else math.nan
