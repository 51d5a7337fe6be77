"""bench and profile on another machine, with a stand-in for `ssh` that runs what it is given here."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def network(tiny_segmenter: Callable[[], onnx.ModelProto], tmp_path: Path) -> Path:
    """The tiny network, its weights in a file beside it."""
    path = tmp_path / "net.onnx"
    onnx.save(tiny_segmenter(), path, save_as_external_data=True, location="net.weights", size_threshold=0)
    return path


@pytest.fixture
def whole(tiny_segmenter: Callable[[], onnx.ModelProto], tmp_path: Path) -> Path:
    """The same in one file."""
    path = tmp_path / "net.onnx"
    onnx.save(tiny_segmenter(), path)
    return path


def test_bench_on_another_machine_gives_the_facts_that_were_found_there(
    cli: Cli, vehicle: str, whole: Path, tmp_path: Path
) -> None:
    network = whole
    options = ["--backend", "ort", "--threads", "1", "--runs", "30", "--deadline-ms", "1e9", "--percentile", "p50"]
    code, out, err = cli(
        "bench", str(network), "--on", "me@vehicle", "--remote-command", vehicle, *options, "--json", "facts.json"
    )

    assert (code, err) == (0, ""), err
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["network"], facts["engine"]) == ("net.onnx", str(network))
    assert facts["scenario"]["images"] == 30
    assert facts["checks"][0]["name"] == "p50"
    assert facts["notes"][0] == "measured on me@vehicle"
    assert "on me@vehicle" in out
    assert "-T -- me@vehicle" in (tmp_path / "bin" / "ssh.log").read_text()
    assert list((tmp_path / "there").glob("avcompress*")) == []


def test_a_deadline_that_is_missed_there_ends_with_1_here(cli: Cli, vehicle: str, whole: Path) -> None:
    options = ["--backend", "ort", "--runs", "30", "--deadline-ms", "1e-6", "--percentile", "p50", "--quiet"]

    assert cli("bench", str(whole), "--on", "v", "--remote-command", vehicle, *options)[0] == 1


@pytest.mark.slow
def test_profile_on_another_machine_writes_the_table_here_or_nothing(
    cli: Cli, vehicle: str, network: Path, tmp_path: Path
) -> None:
    options = ["--backend", "ort", "--precision", "int8", "--seconds", "0.01", "--threads", "1", "--out", "times.json"]
    code, _, err = cli("profile", str(network), "--on", "vehicle", "--remote-command", vehicle, *options)

    assert (code, err) == (0, ""), err
    assert set(json.loads((tmp_path / "times.json").read_text())["layers_ms"]) == {"conv0", "conv1", "conv2"}
    (tmp_path / "times.json").unlink()

    code, _, err = cli("profile", str(network), "--on", "vehicle", "--remote-command", "no-such-tool", *options)

    assert code == 3
    assert err.startswith("error: --on vehicle: expected avcompress ")
    assert not (tmp_path / "times.json").exists()


def test_a_command_for_another_machine_needs_one(cli: Cli, network: Path) -> None:
    code, _, err = cli("bench", str(network), "--backend", "ort", "--remote-command", "x")

    assert code == 2
    assert "--remote-command: expected --on with it" in err
