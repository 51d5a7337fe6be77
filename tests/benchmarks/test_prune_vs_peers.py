"""The peer gets a network as fast as ours, the table says all that is known, and a better peer ends with 1."""

import json
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS)]

import prune_vs_peers  # noqa: E402
from peers.equal_latency import SLOWER, Try, slowest_first, tried  # noqa: E402
from peers.prune_rows import behind, markdown, read_rows  # noqa: E402
from peers.torch_pruning_arm import _copied, take_gradients_  # noqa: E402

DENSE = {"arm": "dense", "latency_ms": 30.0, "of_dense": 1.0, "of_ours": 1.5, "parameters": 3000, "macs": 9000}
OURS = {"arm": "ours", "of_ours": 1.0, "pruned": 0.5, "recovered": 0.69, "pruning_s": 61.2, "steps": 270}
PEER = {"arm": "torch-pruning-taylor", "of_ours": 1.01, "pruned": 0.2, "recovered": 0.68, "note": "ratio 0.3"}
FAILED = {"arm": "torch-pruning-magnitude", "note": "failed: no such layer"}


@given(st.floats(1.1, 3.0), st.integers(8, 60))
def test_bisection_ends_with_the_slowest_allowed_of_a_staircase(dense, stairs):
    def measure(ratio: float) -> Try:
        stair = int(ratio * stairs)
        return Try(ratio, dense - (dense - 0.5) * stair / stairs, str(stair))

    tries = tried(measure, 20, 1.0)

    every = [dense - (dense - 0.5) * stair / stairs for stair in range(stairs)]
    best = next(each.takes for each in slowest_first(tries) if each.takes <= SLOWER)
    assert best >= 1 or best == max(takes for takes in every if takes <= SLOWER)


def test_bisection_halves_the_ratio_until_it_is_between_equal_and_as_slow_as_allowed():
    tries = tried(lambda ratio: Try(ratio, 1.5 - ratio, f"{ratio}"), 9, 0.8)

    assert [each.ratio for each in tries] == pytest.approx([0.4, 0.6, 0.5])
    assert slowest_first(tries) == [tries[2], tries[1]]


def test_bisection_ends_where_both_sides_have_the_same_widths():
    tries = tried(lambda ratio: Try(ratio, 1.1 if ratio < 0.3 else 0.9, "same"), 9, 1.0)

    assert [each.ratio for each in tries] == [0.5, 0.25]


def test_a_network_that_a_longer_measurement_may_allow_is_still_asked_first():
    near, slow, fast = Try(0.2, 1.035, "near"), Try(0.1, 1.3, "slow"), Try(0.4, 0.9, "fast")

    assert slowest_first([fast, slow, near]) == [near, fast]


def test_without_a_network_that_is_fast_enough_it_says_how_fast_the_fastest_is():
    with pytest.raises(ValueError, match=r"got 1\.100 for the fastest"):
        slowest_first([Try(0.4, 1.2, "a"), Try(0.8, 1.1, "b")])


def test_the_table_shows_what_is_known_and_dashes_for_the_rest():
    table = markdown("espnet", "mIoU", [DENSE, OURS, PEER, FAILED])

    assert "mIoU pruned | mIoU recovered" in table
    assert "| dense | 30.00 | 1.000 | 1.500 | 3,000 | 9,000 | - | - | - | - | - |" in table
    assert "| ours | - | - | 1.000 | - | - | 0.5000 | 0.6900 | 61 | - | 270 |" in table
    assert table.endswith("- torch-pruning-taylor: ratio 0.3\n- torch-pruning-magnitude: failed: no such layer\n")
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_results_are_read_in_the_order_of_the_arms(tmp_path):
    for row in (PEER, OURS):
        (tmp_path / row["arm"]).mkdir()
        (tmp_path / row["arm"] / "result.json").write_text(json.dumps(row))

    assert read_rows(tmp_path, list(prune_vs_peers.ARMS)) == [OURS, PEER]


def test_ours_is_held_against_the_best_peer():
    assert behind([DENSE, OURS, PEER, FAILED]) == pytest.approx(-0.01)
    assert behind([OURS, PEER, {**PEER, "recovered": 0.7}]) == pytest.approx(0.01)
    assert behind([OURS, FAILED]) is None
    assert behind([PEER]) is None


@pytest.mark.parametrize(("recovered", "code"), [(0.6905, 0), (0.6915, 1)])
def test_it_ends_with_1_where_a_peer_is_better_by_more_than_a_tenth_of_a_point(
    monkeypatch, capsys, tmp_path, recovered, code
):
    monkeypatch.setattr(prune_vs_peers, "run", lambda _: None)
    for row in (OURS, {**PEER, "recovered": recovered}):
        prune_vs_peers.keep(tmp_path / "espnet" / row["arm"], row)
    monkeypatch.setattr(sys, "argv", ["-", "--data-root", "-", "--out", str(tmp_path), "--tasks", "espnet"])

    with pytest.raises(SystemExit) as ended:
        prune_vs_peers.main()

    assert ended.value.code == code
    assert (tmp_path / "espnet" / "table.md").read_text() in capsys.readouterr().out


def test_gradients_are_summed_over_batches_and_copied_with_the_network():
    layer = nn.Linear(2, 1, bias=False)

    take_gradients_(layer, [(torch.ones(1, 2), []), (torch.ones(1, 2), [])], lambda outputs, _: 3 * outputs.sum())

    assert layer.weight.grad.tolist() == [[6, 6]]
    copied = _copied(layer)
    assert copied.weight.grad.tolist() == [[6, 6]]
    assert copied.weight is not layer.weight


def test_the_peers_packages_have_exact_versions():
    lines = (BENCHMARKS / "peers" / "requirements-torch-pruning-alone.txt").read_text().splitlines()

    assert all(re.match(r"#|[\w.-]+==[\w.]+$", line) for line in lines)


def test_the_layers_that_give_the_output_are_in_the_network():
    from avcompress.models.loading import load_torch
    from avcompress.recipe_load import load_recipe

    task = prune_vs_peers.TASKS["espnet"]
    path = prune_vs_peers.ROOT / "recipes" / task.recipe
    settings = load_recipe(path).model.model_copy(update={"weights": None})
    names = [name for name, _ in load_torch(settings, path.parent, path.parent).named_modules()]

    assert all(any(fnmatchcase(name, pattern) for name in names) for pattern in task.kept)
