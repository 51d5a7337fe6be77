"""The page's part on a network that was made smaller: made-up layers in real proportions."""

import re

import pytest

from validation.page import render_html
from validation.plots import Pair, Ranked, importance_plot, pairs_plot
from validation.report import (
    Factor,
    Factorization,
    GroupImportance,
    Interval,
    LatencyGoal,
    LayerTime,
    LayerWidth,
    Pruning,
    SmallerFacts,
    SpeedupFacts,
)

NAMES = [f"/stage.{i}/conv/Conv" for i in range(12)]


def layer(index: int, **changes: object) -> LayerWidth:
    width = 16 * (1 + index // 4)
    facts = {"before": width, "after": width // 2, "macs_before": 400_000, "macs_after": 100_000, "zeros": 0.0}
    return LayerWidth(name=NAMES[index], op="Conv", **(facts | changes))


@pytest.fixture
def facts() -> SmallerFacts:
    """Half of the channels are gone, one layer was taken apart, one is the head and stays."""
    layers = [layer(i) for i in range(12)]
    layers[5] = layer(5, parts=2, after=32, macs_after=50_000)
    layers[11] = layer(11, after=48, macs_after=200_000, fixed="they are the network's outputs", zeros=0.5)
    goal = LatencyGoal(engine="openvino", goal_ms=4.0, before_ms=8.0, predicted_ms=3.9, measured_ms=4.1)
    groups = tuple(
        GroupImportance(layer=each.name, channels=each.before, kept=each.after, scores=(3.0, 1.0, 0.5, 0.0))
        for each in layers[:11]
    )
    factor = Factor(
        layer=NAMES[5],
        method="svd",
        ranks=(8,),
        macs_before=100_000,
        macs_after=50_000,
        error=0.031,
        ms_before=0.4,
        ms_after=0.25,
    )
    return SmallerFacts(
        macs_before=4_800_000,
        macs_after=1_250_000,
        parameters_before=120_000,
        parameters_after=30_000,
        layers=tuple(layers),
        prunings=(Pruning(step="prune (2 times as fast)", importance="taylor", groups=groups, goal=goal),),
        factorizations=(
            Factorization(step="factorize (auto)", engine="openvino", before_ms=4.1, after_ms=3.7, layers=(factor,)),
        ),
        layer_times={"openvino": tuple(LayerTime(name=name, nodes=(name,), ms=0.6) for name in NAMES)},
    )


@pytest.fixture
def page(make_report, facts) -> str:
    """The page of it: each layer takes .25 ms now, the parts of the sixth together .3."""
    times = [LayerTime(name=name, nodes=(name,), ms=0.25) for name in NAMES if name != NAMES[5]]
    times += [LayerTime(name=part, nodes=(f"{NAMES[5]}/{part}",), ms=0.15) for part in ("first", "last")]
    speedup = SpeedupFacts(before_ms=8.2, after_ms=4.0, ratio=Interval(value=2.05, low=2.0, high=2.1))
    report = make_report(smaller=facts, layer_times={"openvino": tuple(times)}, speedups={"openvino": speedup})
    return " ".join(render_html(report).split())


def test_what_is_left_is_said_first_and_every_part_is_there(page):
    assert "26.0 % of 4.8 million multiply-accumulates and 25.0 % of 120,000 parameters are left" in page
    assert '<a href="#smaller">Smaller network</a>' in page
    for text in (
        "Channels and multiply-accumulates of 12 layers before and after; 10 are narrower.",
        "Time of 12 weighted layers on openvino: 7.20 ms before, 3.05 ms after.",
        "Importance of the channels of 11 groups; ",
        "they are the network&#39;s outputs",
        "2 parts",
    ):
        assert text in page


def test_a_latency_that_was_missed_stands_out_beside_its_prediction(page):
    (row,) = re.findall(r'<tr><th scope="row">prune \(2 times as fast\)</th>.*?</tr>', page)

    assert re.findall(r"[\d.]+ ms|[+-][\d.]+ %", row) == ["8.00 ms", "4.00 ms", "3.90 ms", "4.10 ms", "-4.9 %"]
    assert "num broken" in row


def test_a_layer_that_was_taken_apart_tells_how_and_what_it_lost(page):
    (row,) = re.findall(rf'<tr><td class="mono">{re.escape(NAMES[5])}</td><td>svd</td>.*?</tr>', page)

    assert re.findall(r">([\d.]+(?: %)?)<", row) == ["8", "50.0 %", "0.400", "0.250", "3.1 %"]


def test_how_many_times_as_fast_it_is_stands_at_the_top(page):
    assert re.search(r"times as fast, openvino.*?2\.05.*?float 8\.20 ms, now 4\.00 ms", page)


def test_a_report_of_a_network_as_it_was_has_no_such_part(make_report):
    assert 'id="smaller"' not in render_html(make_report())


def test_layers_that_take_more_than_before_are_marked(make_report, facts):
    grown = facts.model_copy(update={"layers": (layer(0, after=32), *facts.layers[1:])})

    assert "more than before" in render_html(make_report(smaller=grown))
    assert "more than before" not in render_html(make_report(smaller=facts))


# --- the plots


def test_of_many_groups_some_are_drawn_and_the_cut_of_each():
    groups = [Ranked(f"group {i}", (2.0, 1.0, 0.0), 0.5 if i % 2 else 1.0) for i in range(100)]

    svg = importance_plot(groups, "one")

    assert len(re.findall(r"group \d+<", svg)) == 40
    assert 0 < svg.count("50 %") - 1 <= 40  # one is on the axis


@pytest.mark.parametrize("count", [1, 3, 300])
def test_any_number_of_layers_can_be_drawn(count):
    pairs = [Pair(f"layer {i}", 4.0, float(i % 6)) for i in range(count)]

    svg = pairs_plot([("channels", pairs), ("ms", pairs)], "two")

    assert svg.startswith("<svg")
    assert svg == pairs_plot([("channels", pairs), ("ms", pairs)], "two")
    assert "NaN" not in svg


def test_only_layers_that_changed_much_have_their_names_drawn():
    pairs = [Pair(f"layer {i}", 2.0, 2.0) for i in range(40)]
    pairs[0], pairs[20] = Pair("most", 9.0, 1.0), Pair("little", 3.0, 2.5)

    svg = pairs_plot([("ms", pairs)], "named")

    assert "most" in svg
    assert "little" not in svg


def test_groups_without_any_importance_are_drawn_flat():
    assert importance_plot([Ranked("dead", (0.0, 0.0), 0.5)], "three").startswith("<svg")
