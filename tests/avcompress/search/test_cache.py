import os
import signal
from pathlib import Path

import pytest

from avcompress.search.cache import Cache, sweep
from avcompress.search.pool import Here, Processes
from avcompress.spec import PeerError


def squared(task: int) -> dict[str, float]:
    return {"result": task / 3, "square": task * task}


def deadly(task: int) -> int:
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


class Counting:
    """Fails at a task, and counts those that are done."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.done: list[int] = []
        self.fails_at = fails_at

    def __call__(self, task: int) -> int:
        if task == self.fails_at:
            raise KeyboardInterrupt
        self.done.append(task)
        return task * 10


def test_a_sweep_that_was_stopped_goes_on_where_it_stopped(tmp_path: Path):
    cache, keys = Cache(tmp_path), ["a", "b", "c", "d"]
    first, second = Counting(fails_at=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        sweep(first, [0, 1, 2, 3], keys, cache, Here())

    found = sweep(second, [0, 1, 2, 3], keys, cache, Here())

    assert found == [0, 10, 20, 30]
    assert (first.done, second.done) == ([0, 1], [2, 3])
    assert sweep(Counting(fails_at=0), [0, 1, 2, 3], keys, cache, Here()) == found


def test_a_damaged_result_is_computed_again(tmp_path: Path):
    cache = Cache(tmp_path)
    sweep(Counting(), [1], ["a"], cache, Here())
    (tmp_path / "a.json").write_text('{"result": 1')

    assert cache.get("a") is None
    assert sweep(Counting(), [1], ["a"], cache, Here()) == [10]


def test_processes_give_what_this_process_gives(tmp_path: Path):
    tasks, keys = [3, 1, 2], ["x", "y", "z"]

    here = sweep(squared, tasks, keys, Cache(tmp_path / "here"), Here())
    there = sweep(squared, tasks, keys, Cache(tmp_path / "there"), Processes(2))

    assert here == there == [squared(task) for task in tasks]


def test_a_process_that_is_killed_ends_the_sweep_and_what_is_finished_is_kept(tmp_path: Path):
    cache, keys = Cache(tmp_path), ["a", "b", "c"]

    with pytest.raises(PeerError, match="expected 1 processes to go on, one has ended"):
        sweep(deadly, [0, 1, 2], keys, cache, Processes(1))

    assert [cache.get(key) for key in keys] == [0, 1, None]
