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
