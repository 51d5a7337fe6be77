import math
import resource
import sqlite3
from contextlib import contextmanager

import numpy as np
import pytest

from avcompress.spec import DataError, EngineError, OutputError, RecipeError
from calibration.frame import Header, RawImage
from ros_nodes.bag.replay import JumpingClock, Replay, replay
from ros_nodes.bag.writing import BagPort, new_bag

START = 10**18
MS = 1_000_000
TOPICS = {"front": "/cameras/front"}


def drive(frames, every_ms=100, cameras=("front",), size=(4, 4)):
    """A drive of cameras that see at the same moments."""
    script, (height, width) = [], size
    for index in range(frames):
        stamp = START + index * every_ms * MS
        header = Header(stamp // 10**9, stamp % 10**9, "front")
        image = RawImage(header, height, width, "rgb8", 3 * width, np.zeros(height * width * 3, np.uint8))
        script += [(index * every_ms, camera, image) for camera in cameras]
    return script


@pytest.fixture
def played(tmp_path, bench, monkeypatch, rigs):
    """Replay a drive with an engine that takes so many milliseconds of a clock that nothing else moves."""

    def run(frames=10, takes_ms=0.0, free=False, **settings):
        b = bench(**settings)
        real = [0]
        monkeypatch.setattr("ros_nodes.bag.replay.JumpingClock", lambda: JumpingClock(lambda: real[0]))
        well = b.engines["main"].run

        def slowly(inputs):
            real[0] += round(takes_ms * MS)
            return well(inputs)

        b.engines["main"].run = slowly
        rigs.write_bag(tmp_path / "in", drive(frames))
        what = Replay(b.settings, TOPICS, node="vision", free=free)
        return replay(tmp_path / "in", tmp_path / "out", what, load=b.load), rigs.read_bag(tmp_path / "out")

    return run


def test_an_engine_that_keeps_up_serves_every_frame_and_its_times_are_told(played):
    found, heard = played(takes_ms=7)
    assert found.counts["front"].published == len(heard.results) == 10
    assert found.latencies["inference"].samples_ms == (7,) * 10
    assert found.latencies["total"].samples_ms == (7,) * 10
    assert (found.recorded_s, found.deadline_ms, found.engine) == (0.9, 10, "tiny revision 1, ort")


def test_an_engine_that_does_not_keep_up_loses_the_frames_that_a_vehicle_would_lose(played):
    # Frames come every 100 ms, the engine takes 250: it serves those of 0, 200, 500, 700 and 900 ms, each the newest.
    found, heard = played(takes_ms=250, max_age_ms=1000, hang_ms=5000)
    stamps = [(header.stamp_ns - START) // MS for _, header, _ in heard.results]
    assert stamps == [0, 200, 500, 700, 900]
    assert found.counts["front"].dropped["superseded"] == 5
    assert sorted(found.latencies["total"].samples_ms) == [250, 250, 300, 300, 350, *[math.inf] * 5]


def test_old_frames_are_stale_in_a_replay_too(played):
    # Served 0-250, then 200 is 50 ms old; 250-500 ... with at most 20 ms of age only those that come just in time.
    found, _ = played(takes_ms=250, max_age_ms=20, hang_ms=5000)
    assert found.counts["front"].dropped["stale"] > 0
    assert found.counts["front"].pending == 0


def test_a_free_replay_serves_every_frame_however_long_it_takes(played):
    found, heard = played(takes_ms=250, free=True, hang_ms=5000)
    assert found.counts["front"].published == len(heard.results) == 10
    assert found.latencies["inference"].samples_ms == (250,) * 10


def test_in_a_replay_nothing_hangs_so_a_deadline_may_be_as_long_as_it_likes(played):
    found, _ = played(takes_ms=900, free=True, deadline_ms=3000, hang_ms=500)
    assert (found.counts["front"].published, found.deadline_ms) == (10, 3000)


def test_a_free_replay_serves_every_frame_of_one_moment(tmp_path, bench, rigs):
    b = bench()
    rigs.write_bag(tmp_path / "in", drive(4, every_ms=0))
    found = replay(tmp_path / "in", tmp_path / "out", Replay(b.settings, TOPICS, "vision", free=True), load=b.load)
    assert found.counts["front"].published == len(rigs.read_bag(tmp_path / "out").results) == 4


BOTH = {"front": "/cameras/front", "left": "/cameras/left"}


def test_in_a_free_replay_cameras_of_one_moment_still_go_together(tmp_path, bench, rigs):
    b = bench(cameras=tuple(BOTH), warmup=1)
    rigs.write_bag(tmp_path / "in", drive(5, cameras=tuple(BOTH)))
    found = replay(tmp_path / "in", tmp_path / "out", Replay(b.settings, BOTH, free=True), load=b.load)
    assert [counts.published for counts in found.counts.values()] == [5, 5]
    assert b.engines["main"].batches == [2] * 5


def test_a_free_replay_serves_a_frame_that_waits_for_another_camera_before_the_next_comes(tmp_path, bench, rigs):
    b = bench(cameras=tuple(BOTH), batch_window_ms=150, max_age_ms=1000)
    rigs.write_bag(tmp_path / "in", [*drive(5), *drive(1, cameras=("left",))])
    found = replay(tmp_path / "in", tmp_path / "out", Replay(b.settings, BOTH, free=True), load=b.load)
    assert [counts.published for counts in found.counts.values()] == [5, 1]


def test_a_replay_gives_the_same_twice(played, tmp_path, bench, rigs):
    played(takes_ms=3)
    b = bench()
    replay(tmp_path / "in", tmp_path / "again", Replay(b.settings, TOPICS, "vision", free=True), load=b.load)
    one, other = rigs.read_bag(tmp_path / "out"), rigs.read_bag(tmp_path / "again")
    assert one.results == other.results


def test_a_bundle_that_is_refused_leaves_no_bag(tmp_path, bench, rigs):
    b = bench()
    del b.engines["main"]
    rigs.write_bag(tmp_path / "in", drive(1))
    with pytest.raises(EngineError, match="main: expected a bundle"):
        replay(tmp_path / "in", tmp_path / "out", Replay(b.settings, TOPICS), load=b.load)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(("frames", "good"), [(3, 0), (3, 1), (3, 2), (1, 0)])
@pytest.mark.parametrize("free", [True, False])
def test_a_node_that_stops_at_any_frame_says_why_and_leaves_no_bag(tmp_path, bench, rigs, frames, good, free):
    b = bench()
    well, left = b.engines["main"].run, [good]

    def fails(inputs):
        left[0] -= 1
        if left[0] < 0:
            raise EngineError("ort: expected an answer, got none; mend it")
        return well(inputs)

    b.engines["main"].run = fails
    rigs.write_bag(tmp_path / "in", drive(frames))
    with pytest.raises(EngineError, match=r"expected a node that serves, got one that stopped: .*expected an answer"):
        replay(tmp_path / "in", tmp_path / "out", Replay(b.settings, TOPICS, free=free), load=b.load)
    assert not b.engines["main"].is_open
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@contextmanager
def no_file_larger_than(size_bytes):
    """What a full disk is to a writer, for this process only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_that_cannot_grow_ends_the_replay_at_once_and_is_gone(tmp_path, bench, segmenter, rigs, storage):
    b = bench()
    b.engines["main"] = segmenter()
    rigs.write_bag(tmp_path / "in", drive(40, size=(400, 800)))
    what = Replay(b.settings, TOPICS, free=True, storage=storage)
    message = r"out: expected to write a bag, got: .*; free some space, or give another folder$"
    with no_file_larger_than(200_000), pytest.raises(OutputError, match=message):
        replay(tmp_path / "in", tmp_path / "out", what, load=b.load)
    assert len(b.engines["main"].batches) < 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("fails_at", [1, 5, 12])
def test_one_message_that_could_not_be_written_ends_the_replay(tmp_path, bench, rigs, monkeypatch, storage, fails_at):
    from rosbags.rosbag2 import Writer

    b, calls, write = bench(), [0], Writer.write

    def once(writer, *message):
        calls[0] += 1
        if calls[0] == fails_at:
            raise sqlite3.OperationalError("database or disk is full")
        write(writer, *message)

    rigs.write_bag(tmp_path / "in", drive(10))
    monkeypatch.setattr(Writer, "write", once)
    what = Replay(b.settings, TOPICS, free=True, storage=storage)
    with pytest.raises(OutputError, match="got: database or disk is full; free some space"):
        replay(tmp_path / "in", tmp_path / "out", what, load=b.load)
    assert calls[0] == fails_at
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_topic_that_is_not_there_is_refused(tmp_path, bench, rigs):
    rigs.write_bag(tmp_path / "in", drive(1))
    with pytest.raises(DataError, match="expected images on /rear"):
        replay(tmp_path / "in", tmp_path / "out", Replay(bench().settings, {"front": "/rear"}), load=bench().load)


@pytest.mark.parametrize("inside", ["in/seen", "in/a/seen", "in/in.mcap/../seen", "main/seen"])
def test_a_new_bag_inside_of_what_is_read_is_refused(tmp_path, bench, rigs, inside, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rigs.write_bag(tmp_path / "in", drive(1))
    (recorded,) = (path for path in (tmp_path / "in").iterdir() if path.suffix != ".yaml")
    for bag in (tmp_path / "in", recorded):
        with pytest.raises(RecipeError, match=r"expected a new folder outside of .*, got one inside; give another one"):
            replay(bag, tmp_path / inside, Replay(bench().settings, TOPICS), load=bench().load)
    assert len(list((tmp_path / "in").iterdir())) == 2
    assert not (tmp_path / "main").exists()


def test_what_is_no_name_of_a_node_is_refused(bench):
    with pytest.raises(RecipeError, match=r"^node: expected a name of letters, digits and underscores"):
        Replay(bench().settings, TOPICS, node="a/b")


def test_a_bag_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="expected a new folder"), new_bag(tmp_path / "out"):
        pass


def test_what_is_written_after_a_result_cannot_lose_it(played, monkeypatch):
    write = BagPort._write

    def refuse(port, topic, *rest, **options):
        if "/debug/" in topic:
            raise RuntimeError("debug failed")
        write(port, topic, *rest, **options)

    monkeypatch.setattr(BagPort, "_write", refuse)
    found, heard = played(takes_ms=7)
    assert found.counts["front"].published == len(heard.results) == 10
    assert found.latencies["total"].samples_ms == (7,) * 10
    assert heard.statuses["engine"][2]["last_transport_error"] == "debug failed"
