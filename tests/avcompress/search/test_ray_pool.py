"""A cluster of two machines, which are two raylets of this one."""

import functools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avcompress.recipe import Segmentation
from avcompress.search.cache import Cache
from avcompress.search.pool import Here
from avcompress.search.ray_pool import _Errand, _sendable, _Share, _share, connected, everywhere
from avcompress.search.sensitivity.measure import Material, measure_sensitivity
from avcompress.spec import MissingError, PeerError

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
SHELL = functools.partial(subprocess.check_output, text=True)


@pytest.fixture(scope="module")
def calm(two_machines: Any) -> Iterator[Any]:
    """A cluster that no machine of is killed."""
    with two_machines() as cluster:
        yield cluster


def test_tasks_of_a_machine_that_is_killed_are_done_on_the_other_and_no_finished_one_again(
    two_machines: Any, killing: Any, tmp_path: Path
) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.1; done"
    tasks = [["sh", "-c", f"echo {i} $PPID >> {log}; {wait if i else 'true'}; echo {i}"] for i in range(5)]

    def begun() -> list[list[str]]:
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def go_on() -> None:
        """Once the killed machine's process is gone, too: it would still give its result."""
        under_way = [worker for task, worker in begun() if task != "0"]
        while all(Path(f"/proc/{worker}").exists() for worker in under_way):
            time.sleep(0.05)
        go.touch()

    with two_machines() as cluster, connected(cluster.address) as pool:
        thread = killing(cluster, lambda: len(begun()) == 3, go_on)
        found = dict(pool.results(SHELL, tasks))
        thread.join()

    assert found == {i: f"{i}\n" for i in range(5)}
    times = [[task for task, _ in begun()].count(str(i)) for i in range(5)]
    assert times[0] == 1
    assert sorted(times) == [1, 1, 1, 1, 2]


def test_a_task_that_ends_its_process_twice_is_given_up_and_harms_no_other(calm: Any) -> None:
    with connected(calm.address) as pool:
        with pytest.raises(PeerError, match="lost 2 times"):
            list(pool.results(os._exit, [3]))
        forgiving = type(pool)(lost=lambda task, how: (task, bool(how)))
        assert dict(forgiving.results(os._exit, [3, 4])) == {0: (3, True), 1: (4, True)}
        assert dict(pool.results(abs, [-1, 2])) == {0: 1, 1: 2}


def test_each_machine_has_its_own_share_of_tasks_however_many_cores_it_has(two_machines: Any, tmp_path: Path) -> None:
    """One of four cores takes one task, as those of one do; each waits for the others."""
    log = tmp_path / "log"
    wait = f"echo $RAY_NODE >> {log}; until [ $(wc -l < {log}) -ge 3 ]; do sleep 0.05; done"
    tasks = [["sh", "-c", f"{wait}; echo {i}"] for i in range(3)]
    with two_machines() as cluster:
        cluster.add_node(num_cpus=4)
        with connected(cluster.address, at_a_time=1) as pool:
            assert pool.slots == 3
            found = dict(pool.results(functools.partial(_with_node, tasks), range(3)))

    assert len(set(found.values())) == 3


def _with_node(tasks: list[list[str]], number: int) -> str:
    SHELL(tasks[number])
    return str(ray.get_runtime_context().get_node_id())


@pytest.mark.parametrize(
    ("cores", "at_a_time", "share"), [(16, 1, (1, 16)), (5, 2, (2, 2)), (1, 2, (1, 1)), (3, None, (3, 1))]
)
def test_tasks_of_a_machine_share_its_own_cores(cores: int, at_a_time: int | None, share: tuple[int, int]) -> None:
    assert _share(cores, at_a_time) == share


def sent_to(left: list[_Errand], busy: list[str], shares: dict[str, _Share]) -> list[tuple[int, str]]:
    away = {number: _Errand(9, machine) for number, machine in enumerate(busy)}
    return [(errand.number, errand.machine) for errand in _sendable(left, away, shares)]


def test_a_task_goes_where_there_is_most_room_and_one_that_was_lost_waits_for_another_machine() -> None:
    shares = {"a": _Share(2, 1), "b": _Share(1, 4)}
    left = [_Errand(0), _Errand(1), _Errand(2, lost_on=["a"]), _Errand(3)]

    assert sent_to(left, ["b"], shares) == [(0, "a"), (1, "a")]
    assert [errand.number for errand in left] == [2, 3]
    assert sent_to(left, [], shares) == [(2, "b"), (3, "a")]
    assert sent_to([_Errand(4, lost_on=["a"])], [], {"a": _Share(1, 1)}) == [(4, "a")]
    assert sent_to([_Errand(5)], [], {}) == []


def test_what_work_raises_is_raised_here_and_machines_are_asked_before(calm: Any, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with connected(calm.address, at_a_time=1) as pool:
        assert pool.slots == 2
        with pytest.raises(ValueError, match="'x'"):
            list(pool.results(int, ["1", "x"]))
        assert len(everywhere(os.getpid)) == 3
        assert signal.getsignal(signal.SIGTERM) == before
    with (
        pytest.raises(MissingError, match=r": no data here"),
        connected(calm.address, look=functools.partial(str, "no data here")),
    ):
        pass


@pytest.mark.parametrize("kind", ["output", "fisher"])
def test_a_sweep_gives_the_same_numbers_on_a_cluster_from_images_that_no_machine_has(
    calm: Any, formats: Any, images: Any, tmp_path: Path, kind: Any
) -> None:
    given = Material(formats("int8"), images, 4, Segmentation(kind="segmentation"), (8, 8))
    here = measure_sensitivity(kind, given, Cache(tmp_path / "here"), Here())
    with connected(calm.address) as pool:
        assert measure_sensitivity(kind, given, Cache(tmp_path / "there"), pool) == here


def test_where_no_cluster_answers_it_is_told() -> None:
    with pytest.raises(MissingError, match=r"--ray 127\.0\.0\.1:1: expected a Ray cluster"), connected("127.0.0.1:1"):
        pass
