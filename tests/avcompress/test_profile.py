"""`avcompress profile` as a user's terminal sees it."""

import pytest

from avcompress.search.latency.table import PrecisionTable


def test_a_network_is_timed_here_and_the_table_is_a_file(cli, tiny_segmenter, tmp_path):
    (tmp_path / "net.onnx").write_bytes(tiny_segmenter().SerializeToString())

    code, out, _ = cli("profile", "net.onnx", "--out", "times.json", "--backend", "ort", "--seconds", "0", "--quiet")

    assert code == 0
    table = PrecisionTable.model_validate_json((tmp_path / "times.json").read_bytes())
    assert list(table.layers_ms) == ["conv0", "conv1", "conv2"]
    assert {precision for own in table.layers_ms.values() for precision in own} == {"fp32", "int8"}
    assert not table.estimate
    assert len(table.network) == 64
    assert table.versions
    assert out.startswith("measured on ort, ")
    assert "written: times.json" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("none.onnx", "--out", "times.json"), "none.onnx"),
        (("net.onnx", "--out", "net.onnx"), "--out"),
        (("net.onnx", "--out", "times.json", "--precision", "int7"), "int7"),
    ],
)
def test_bad_input_is_one_line(cli, tiny_segmenter, tmp_path, arguments, complaint):
    (tmp_path / "net.onnx").write_bytes(tiny_segmenter().SerializeToString())

    code, _, err = cli("profile", *arguments, "--backend", "ort")

    assert code == 2
    assert complaint in err
    assert "Traceback" not in err
    assert not (tmp_path / "times.json").exists()


def test_without_scipy_it_says_what_installs_it_before_any_work(cli, tiny_segmenter, tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_bytes(tiny_segmenter().SerializeToString())
    monkeypatch.setattr("avcompress.profiling.find_spec", lambda _: None)

    code, _, err = cli("profile", "net.onnx", "--out", "times.json", "--backend", "ort")

    assert code == 3
    assert 'expected scipy, got none installed; pip install "avcompress[train]"' in " ".join(err.split())
