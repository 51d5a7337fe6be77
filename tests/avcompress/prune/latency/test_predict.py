from dataclasses import replace

import numpy as np
import pytest

from avcompress.prune.latency.measure import designs
from avcompress.prune.latency.predict import fit
from avcompress.prune.latency.table import Design, LatencyTable, load_table, save_table
from avcompress.prune.latency.widths import counts_of, widths_of
from avcompress.prune.selection import steps_of
from avcompress.spec import DataError


def truth(widths, counts, block=8):
    """Times of a machine that computes `block` channels together."""
    kept = np.ceil(widths.kept(counts[None])[0] / block)
    return {
        name: float(0.01 + (0.003 * i * o if product else 0.0) + 0.02 * o)
        for name, product, (i, o) in zip(widths.nodes, widths.products, kept, strict=True)
    }


def table_of(coupling, widths, count=14):
    drawn = [counts_of(coupling, removed) for removed in designs(coupling, steps_of(coupling, 4), count)]
    layers = [truth(widths, counts) for counts in drawn]
    return LatencyTable(
        "digest",
        tuple((g.name, len(g.channels)) for g in coupling.groups),
        "openvino",
        "a CPU",
        {"openvino": "1"},
        tuple(
            Design(tuple(counts.tolist()), times, 0.05, 0.2 + 1.1 * (sum(times.values()) + 0.05))
            for counts, times in zip(drawn, layers, strict=True)
        ),
    )


def test_widths_without_slicing_are_those_of_the_sliced_tensors(chain):
    network, coupling = chain((16, 24, 8))

    kept = widths_of(network, coupling).kept(np.array([[4, 8]]))[0]

    nodes = widths_of(network, coupling).nodes
    assert dict(zip(nodes, kept.tolist(), strict=True)) == {
        "conv0": [1.0, 12.0],
        "relu0": [12.0, 12.0],
        "conv1": [12.0, 16.0],
        "relu1": [16.0, 16.0],
        "conv2": [16.0, 1.0],
        "relu2": [1.0, 1.0],
    }


def test_a_machine_that_computes_in_blocks_is_found_out(chain):
    network, coupling = chain((48, 64, 40, 8))
    widths = widths_of(network, coupling)

    predictor = fit(table_of(coupling, widths), widths)

    assert predictor.block == 8
    for counts in ([8, 8, 8], [20, 0, 12], [40, 56, 4]):
        times = truth(widths, np.array(counts))
        assert predictor.total_ms(np.array([counts]))[0] == pytest.approx(
            0.2 + 1.1 * (sum(times.values()) + 0.05), rel=0.01
        )


def test_a_width_that_is_no_whole_vector_is_found_to_cost_more(chain):
    """The first node takes a half more where its channels are no whole vectors."""
    network, coupling = chain((25, 64, 8))
    widths = widths_of(network, coupling)
    table = table_of(coupling, widths)

    def slower(design):
        factor = 1.0 if (25 - design.removed[0]) % 8 == 0 else 1.5
        layers = {**design.layers_ms, "conv0": factor * design.layers_ms["conv0"]}
        return replace(design, layers_ms=layers, total_ms=sum(layers.values()) + 0.05)

    predictor = fit(replace(table, designs=tuple(map(slower, table.designs))), widths)

    for removed in (0, 1, 9, 17):
        counts = np.array([removed, 8])
        design = Design(tuple(counts.tolist()), truth(widths, counts), 0.05, 0.0)
        assert predictor.total_ms(counts[None])[0] == pytest.approx(slower(design).total_ms, rel=0.02)


def test_what_was_tried_is_predicted_as_it_was_measured_and_what_is_far_from_it_less_so(chain):
    network, coupling = chain((48, 64, 40, 8))
    widths = widths_of(network, coupling)
    table = table_of(coupling, widths)
    tried, near, far = np.array([[20, 8, 16]]), np.array([[20, 0, 16]]), np.array([[0, 56, 0]])
    before = fit(table, widths)
    measured = 1.2 * before.total_ms(tried)[0]

    after = fit(table, widths, [Design(tuple(tried[0].tolist()), {}, 0.0, measured)])

    gain = [after.total_ms(counts)[0] / before.total_ms(counts)[0] for counts in (tried, near, far)]
    assert 1.15 < gain[0] < 1.2  # a little of it may have been chance
    assert gain[0] > gain[1] > gain[2] > 1  # all tries have something in common
    assert np.array_equal(after.sum.terms, before.sum.terms)


def test_what_the_sum_misses_is_that_of_an_independent_interpolation(chain):
    """Against another form of the same: the conditional mean from the inverse of the covariance of all."""
    network, coupling = chain((48, 64, 40, 8))
    widths = widths_of(network, coupling)
    table = table_of(coupling, widths)
    random = np.random.default_rng(0)
    noisy = replace(
        table, designs=tuple(replace(d, total_ms=d.total_ms * random.uniform(0.8, 1.2)) for d in table.designs)
    )

    tries = [Design((16, 8, 0), {}, 0.0, 0.7), Design((16, 8, 8), {}, 0.0, 0.6)]

    predictor = fit(noisy, widths, tries)

    known, removed = (*noisy.designs, *tries), np.array([[8, 16, 8]])
    points = predictor.sum.parts_ms(np.array([d.removed for d in known] + removed.tolist()))
    scale = np.linalg.norm(points[0])
    late = np.arange(len(points)) >= len(noisy.designs)
    alike = np.array([[np.exp(-np.linalg.norm(a - b) / scale) for b in points] for a in points])
    missed = np.log([d.total_ms for d in known]) - np.log(predictor.sum.total_ms(points[:-1]))
    precision = np.linalg.inv(alike + np.outer(late, late) + 0.02 * np.eye(len(points)))
    expected = -precision[-1, :-1] @ missed / precision[-1, -1]
    assert np.log(predictor.total_ms(removed)[0] / predictor.sum.total_ms(points[-1:])[0]) == pytest.approx(expected)


def test_a_table_of_few_designs_is_refused(chain):
    network, coupling = chain()
    widths = widths_of(network, coupling)

    with pytest.raises(DataError, match="expected at least 6 designs, got 3; measure it again"):
        fit(table_of(coupling, widths, 3), widths)


def test_a_table_comes_back_from_its_file_and_another_networks_is_refused(chain, tmp_path):
    network, coupling = chain()
    table = table_of(coupling, widths_of(network, coupling))

    save_table(table, tmp_path / "table.json")

    assert load_table(tmp_path / "table.json", "digest") == table
    with pytest.raises(DataError, match="expected a latency table of this network"):
        load_table(tmp_path / "table.json", "other")
    (tmp_path / "table.json").write_text((tmp_path / "table.json").read_text()[:100])
    with pytest.raises(DataError, match="expected a latency table of version 1, got something else"):
        load_table(tmp_path / "table.json", "digest")


def test_designs_are_aligned_and_the_first_is_the_network_as_it_is(chain):
    _, coupling = chain((48, 64, 8))

    steps = {"conv0": 8, "conv1": 16}

    drawn = designs(coupling, steps)

    assert drawn[0] == {}
    assert drawn == designs(coupling, steps)
    assert all((len(g.channels) - len(r.get(g.name, ()))) % steps[g.name] == 0 for r in drawn for g in coupling.groups)
    assert len({tuple(counts_of(coupling, r)) for r in drawn}) >= 6
