"""The command on a cluster of two machines, which are two raylets of this one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra `search` is not installed")
pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


def test_a_search_on_two_machines_one_of_them_killed_ends_as_it_does_here(
    two_machines: Any,
    killing: Any,
    cli: Callable[..., tuple[int, str, str]],
    searched: Callable[..., Path],
    tmp_path: Path,
) -> None:
    stages = [{"kind": "ptq", "ranges": {"choose": ["mse", "minmax", "entropy"]}}]
    path = str(searched(stages, shares=[1.0]))
    code, _, err = cli("search", path, "--out", "here", "--json", "here.json", "--quiet")
    assert (code, err) == (0, ""), err

    trials = tmp_path / "there" / "trials"
    with two_machines() as cluster:
        thread = killing(cluster, lambda: len(list(trials.glob("*/record.json"))) == 1)
        options = ["--out", "there", "--json", "there.json", "--quiet", "--ray", cluster.address]
        code, _, err = cli("search", path, *options)
        thread.join()

    assert code == 0, err
    here, there = (json.loads((tmp_path / name).read_text()) for name in ("here.json", "there.json"))
    assert [told(each) for each in there["trials"]] == [told(each) for each in here["trials"]]
    for each in there["trials"]:
        folder = trials / each["key"][:16]
        assert (folder / "run" / "model.onnx").read_bytes() == (
            tmp_path / "here" / "trials" / each["key"][:16] / "run" / "model.onnx"
        ).read_bytes()
        assert "tmp" not in (folder / "recipe.yaml").read_text().replace(str(tmp_path), "")


def told(trial: dict[str, Any]) -> tuple[Any, ...]:
    return trial["key"], trial["number"], trial["status"], trial["message"], trial["figures"]["accuracy"]
