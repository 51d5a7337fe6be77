"""Choices that are measured, and what the next one learns of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.prune.latency.approach import CLOSE, TRIES, Try, approach, best_of
from avcompress.prune.latency.measure import designs
from avcompress.prune.latency.predict import fit
from avcompress.prune.latency.solve import Problem
from avcompress.prune.latency.table import Design, LatencyTable
from avcompress.prune.latency.widths import counts_of, widths_of
from avcompress.prune.selection import lost, steps_of
from avcompress.spec import RecipeError

SIZES = (48, 64, 40, 8)


def by_node(widths, counts):
    """A plain machine's times."""
    inputs, outputs = np.moveaxis(widths.kept(counts[None])[0], -1, 0)
    times = 0.01 + 0.0002 * inputs * outputs * widths.products + 0.002 * outputs
    return dict(zip(widths.nodes, times.tolist(), strict=True))


class Machine:
    """A chain of convolutions, its table, and a whole that is more than its nodes by what the table cannot show."""

    def __init__(self, chain, more=lambda counts: 0.0 * counts.sum(), seed=0):
        random = np.random.default_rng(seed)
        network, self.coupling = chain(SIZES)
        self.widths, self.more, self.measured = widths_of(network, self.coupling), more, []
        steps = steps_of(self.coupling, 4)
        drawn = [counts_of(self.coupling, removed) for removed in designs(self.coupling, steps)]
        times = [by_node(self.widths, counts) for counts in drawn]
        self.table = LatencyTable(
            "digest",
            tuple((g.name, len(g.channels)) for g in self.coupling.groups),
            "openvino",
            "a CPU",
            {},
            tuple(
                Design(tuple(c.tolist()), layers, 0.01, sum(layers.values()) + 0.01)
                for c, layers in zip(drawn, times, strict=True)
            ),
        )
        scores = {g.name: random.gamma(1.0, size=len(g.channels)) for g in self.coupling.groups}
        self.problem = Problem(self.coupling, scores, fit(self.table, self.widths).total_ms, steps)

    def ms(self, removed):
        self.measured.append(removed)
        counts = counts_of(self.coupling, removed)
        return (sum(by_node(self.widths, counts).values()) + 0.01) * (1 + self.more(counts))

    def approach(self, share):
        goal_ms = share * self.table.designs[0].total_ms
        return approach(self.problem, self.table, self.widths, goal_ms, self.ms), goal_ms


def narrowness(counts):
    """What narrow networks take more than their nodes, up to a third."""
    return 0.33 * counts.sum() / sum(SIZES[:-1])


def test_a_prediction_that_is_right_is_the_last(chain):
    machine = Machine(chain)

    tried, goal_ms = machine.approach(0.6)

    assert len(tried) == len(machine.measured) == 1
    assert tried[0].measured_ms == pytest.approx(tried[0].predicted_ms, rel=CLOSE)
    assert tried[0].measured_ms <= goal_ms * (1 + CLOSE)


def test_a_machine_that_is_slower_than_its_table_is_learnt(chain):
    machine = Machine(chain, narrowness)

    tried, goal_ms = machine.approach(0.6)

    off = [each.measured_ms / each.predicted_ms - 1 for each in tried]
    assert off[0] > 0.08
    assert all(abs(each) < 0.03 for each in off[1:])
    assert len(off) > 1
    assert best_of(tried, machine.problem, goal_ms).measured_ms <= goal_ms * (1 + CLOSE)


def test_predictions_are_made_of_what_was_measured_before_and_of_nothing_later(chain):
    machine = Machine(chain, narrowness)

    tried, _ = machine.approach(0.6)

    known = []
    for each in tried:
        counts = counts_of(machine.coupling, each.removed)
        assert fit(machine.table, machine.widths, known).total_ms(counts[None])[0] == pytest.approx(each.predicted_ms)
        known.append(Design(tuple(counts.tolist()), {}, 0.0, each.measured_ms))
    assert len({str(each.removed) for each in tried}) == len(tried)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.5, 1.0), st.floats(0.5, 0.9))
def test_whatever_the_machine_adds_the_goal_is_kept_and_the_prediction_within_a_tenth(chain, seed, more, share):
    machine = Machine(chain, lambda counts: more * narrowness(counts), seed)

    tried, goal_ms = machine.approach(share)

    best = best_of(tried, machine.problem, goal_ms)
    assert len(tried) <= TRIES
    assert best.measured_ms <= goal_ms * (1 + CLOSE)
    assert best.measured_ms == pytest.approx(best.predicted_ms, rel=0.1)


def test_it_ends_where_measurements_say_nothing(chain):
    machine = Machine(chain)
    random = np.random.default_rng(1)

    tried = approach(
        machine.problem,
        machine.table,
        machine.widths,
        0.7 * machine.table.designs[0].total_ms,
        lambda removed: machine.ms(removed) * random.choice([0.9, 1.1]),
    )

    assert 1 <= len(tried) <= TRIES


def test_a_goal_that_no_widths_keep_is_refused(chain):
    machine = Machine(chain)

    with pytest.raises(RecipeError, match="expected widths that take"):
        machine.approach(0.01)


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        ((9.9, 9.0, 10.1), 2),  # of those that keep it the one that loses least, not the fastest
        ((9.9, 9.0, 10.5), 1),  # what is too slow is none
        ((12.0, 11.0, 11.5), 1),  # none does: the nearest
    ],
)
def test_of_the_tries_that_keep_a_goal_the_one_that_loses_least_is_taken(chain, measured, wanted):
    problem = replace(Machine(chain).problem, scores={"conv0": np.arange(48.0)})
    tried = [Try({"conv0": range(n)}, 10.0, ms) for n, ms in zip((30, 20, 10), measured, strict=True)]

    assert [lost(problem.scores, each.removed) for each in tried] == [435, 190, 45]
    assert best_of(tried, problem, 10.0) is tried[wanted]
