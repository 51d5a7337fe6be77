"""A recorded drive as calibration images: what is read, left out and taken, and what is said where that fails."""

import hashlib
import json
import tracemalloc
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from avcompress.recipe_drive import RosbagSource
from avcompress.spec import DataError
from calibration.bag.drive import bag_digest, open_drive
from calibration.bag.scanning import SIDE, difference
from calibration.drives import drives_of
from calibration.joined import Part, join
from calibration.part import take_part
from calibration.source import open_source

TOPIC = "/front/image_raw"
START = 1_700_000_000_000_000_000


def grey(level, size=(48, 64)):
    return np.full((*size, 3), level, np.uint8)


def settings(bag, **more):
    return RosbagSource(format="rosbag", bag=bag.name, **{"rate_hz": None, **more})


def opened(bag, **more):
    return open_drive(settings(bag, **more), bag.parent, None)


def seconds(source):
    return [(int(name.rpartition("/")[2]) - START) / 1e9 for name in source.names]


@pytest.fixture(params=["png", "raw"])
def steps(tmp_path, write_drive, request):
    """Ten seconds at 2 Hz, each second 20 grey levels brighter than the one before; in both storages."""
    storage = "sqlite3" if request.param == "raw" else "mcap"
    frames = [(TOPIC, i / 2, grey(20 + 20 * (i // 2))) for i in range(20)]
    return write_drive(tmp_path / "steps", frames, request.param, storage)


def test_frames_that_hardly_differ_are_duplicates(steps):
    source = opened(steps)
    assert seconds(source) == list(range(10))
    found = source.coverage
    assert (found.read, found.too_soon, found.duplicates, found.distinct, found.taken) == (20, 0, 10, 10, 10)
    assert found.size == (48, 64)
    assert [sample.image[0, 0, 0] for sample in source] == [20 + 20 * i for i in range(10)]
    assert source[3].image.tolist() == grey(80).tolist()


def test_the_threshold_of_duplicates_is_in_grey_levels_on_average(tmp_path, write_drive):
    # 100, then 103: they differ by 3; half of the pixels brighter by 8: by 4.
    half = grey(103)
    half[:24] += 8
    bag = write_drive(tmp_path / "d", [(TOPIC, 0, grey(100)), (TOPIC, 1, grey(103)), (TOPIC, 2, half)])
    assert difference(grey(103, (SIDE, SIDE)), grey(100, (SIDE, SIDE))) == 3
    assert seconds(opened(bag, distinct=2.9)) == [0, 1, 2]
    # Against the one taken last: the third differs from the first by 7, from the second by 4.
    assert seconds(opened(bag, distinct=3.1)) == [0, 2]
    assert seconds(opened(bag, distinct=4.1)) == [0, 2]
    assert seconds(opened(bag, distinct=7.1)) == [0]
    twice = write_drive(tmp_path / "twice", [(TOPIC, 0, grey(100)), (TOPIC, 1, grey(100))])
    assert seconds(opened(twice, distinct=0)) == [0, 1]


def test_the_range_of_time_counts_from_the_beginning_of_the_recording(steps):
    assert seconds(opened(steps, start_s=3, end_s=6)) == [3, 4, 5]
    assert seconds(opened(steps, start_s=8.5)) == [8.5, 9]


def test_the_rate_keeps_the_first_frame_of_each_period_and_late_ones_shift_nothing(tmp_path, write_drive):
    times = [0, 0.1, 0.52, 0.55, 1.05, 1.49, 1.5]
    bag = write_drive(tmp_path / "d", [(TOPIC, t, grey(10 * i + 20)) for i, t in enumerate(times)])
    source = opened(bag, rate_hz=2.0)
    assert seconds(source) == [0, 0.52, 1.05, 1.5]
    assert source.coverage.too_soon == 3


def test_of_frames_of_one_time_the_first_is_taken(tmp_path, write_drive):
    bag = write_drive(tmp_path / "d", [(TOPIC, 0, grey(20)), (TOPIC, 0, grey(90)), (TOPIC, 1, grey(160))])
    source = opened(bag)
    assert [sample.image[0, 0, 0] for sample in source] == [20, 160]


def test_coverage_counts_by_brightness_content_and_time(tmp_path, write_drive):
    levels = [20] * 5 + [100] * 10 + [200] * 5
    rng = np.random.default_rng(0)
    frames = [(TOPIC, i, np.clip(grey(v) + rng.integers(0, 12), 0, 255).astype(np.uint8)) for i, v in enumerate(levels)]
    source = opened(write_drive(tmp_path / "d", frames), distinct=0, count=8)
    found = source.coverage
    assert [(s.name, s.distinct) for s in found.brightness] == [
        ("dark (below 70)", 5),
        ("medium (70 to 170)", 10),
        ("bright (from 170)", 5),
    ]
    for shares in (found.brightness, found.content, found.time):
        assert sum(share.distinct for share in shares) == 20
        assert sum(share.taken for share in shares) == 8
    assert all(share.taken for share in found.brightness)
    assert [share.distinct for share in found.time] == [2] * 10
    assert found.recorded_s == 19
    assert json.loads(json.dumps(asdict(found)))["taken"] == 8
    assert found.line == (
        f"d, {TOPIC}: 20 frames, 20 looked at, 0 duplicates, 0 unreadable, 8 taken "
        f"({found.brightness[0].taken} dark, {found.brightness[1].taken} medium, {found.brightness[2].taken} bright)"
    )


def test_the_same_drive_gives_the_same_images_and_fingerprint_in_either_storage(tmp_path, write_drive):
    frames = [(TOPIC, i, grey(10 * i)) for i in range(20)]
    one = opened(write_drive(tmp_path / "a" / "d", frames, "png", "mcap"), count=6)
    other = opened(write_drive(tmp_path / "b" / "d", frames, "png", "sqlite3"), count=6)
    assert one.names == other.names
    assert one.fingerprint == other.fingerprint
    assert one.drive().sha256 != other.drive().sha256
    changed = [*frames[:-1], (TOPIC, 19, grey(191))]
    third = opened(write_drive(tmp_path / "c" / "d", changed, "png", "mcap"), count=20)
    assert third.fingerprint != opened(tmp_path / "a" / "d", count=20).fingerprint


def test_a_drive_says_where_its_images_are_from(steps):
    source = opened(steps, count=3, seed=5)
    drive = source.drive()
    assert (drive.bag, drive.topic) == ("steps", TOPIC)
    assert [(at - START) / 1e9 for at in drive.recorded_ns] == seconds(source)
    assert [at - stamp for at, stamp in zip(drive.recorded_ns, drive.stamps_ns, strict=True)] == [5_000_000] * 3
    assert json.loads(drive.settings)["seed"] == 5
    (file,) = (path for path in steps.iterdir() if path.name != "metadata.yaml")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert drive.sha256 == hashlib.sha256(json.dumps([[file.name, digest]]).encode()).hexdigest()
    assert bag_digest(file) == digest


def test_drives_are_found_in_lists_and_shares(steps):
    source = opened(steps, count=4)
    joined = join([Part("steps", source), Part("again", opened(steps, count=2))])
    assert drives_of(joined) == tuple(sorted([source.drive(), opened(steps, count=2).drive()]))
    assert drives_of(take_part(source, 1, 2)) == (source.drive(),)
    assert [sample.name for sample in take_part(source, 2, 2)] == list(source.names[1::2])


def test_the_one_file_of_a_bag_will_do(steps):
    (file,) = (path for path in steps.iterdir() if path.name != "metadata.yaml")
    source = open_drive(RosbagSource(format="rosbag", bag=f"steps/{file.name}", rate_hz=None), steps.parent, None)
    assert seconds(source) == list(range(10))


def test_a_recipe_opens_it_by_its_format(steps):
    source = open_source(settings(steps, topic=TOPIC), steps.parent, ("car",))
    assert source.classes == ("car",)
    assert len(source) == 10


# --- what goes wrong is one line


def message(call):
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_topic_that_is_not_there_is_told_with_those_that_are(tmp_path, write_drive):
    bag = write_drive(tmp_path / "d", [("/a", 0, grey(1)), ("/b", 1, grey(2))])
    assert "expected images on /c, got them on /a, /b; name one" in message(lambda: opened(bag, topic="/c"))
    assert "expected `topic`, as there are images on /a, /b" in message(lambda: opened(bag))


def test_a_bag_without_images_is_told(tmp_path):
    rosbag2 = pytest.importorskip("rosbags.rosbag2")
    with rosbag2.Writer(tmp_path / "d", version=8):
        pass
    assert "expected a topic with images, got none" in message(lambda: opened(tmp_path / "d"))


def test_an_empty_range_is_told_with_the_length_of_the_recording(steps):
    assert "expected frames from 30 s to 40 s, got none; the recording lasts 9.5 s" in message(
        lambda: len(opened(steps, start_s=30, end_s=40))
    )


def test_images_that_change_their_size_are_told(tmp_path, write_drive):
    bag = write_drive(tmp_path / "d", [(TOPIC, 0, grey(1)), (TOPIC, 1, grey(90, (24, 32)))])
    said = message(lambda: len(opened(bag)))
    assert f"frame at {START + 10**9} ns: expected 64x48 pixels, as the frames before, got 32x24" in said


def test_an_image_that_cannot_be_decoded_fails_or_is_skipped(tmp_path, write_drive):
    broken = cv2.imencode(".jpg", grey(90))[1].tobytes()[:-200]
    frames = [(TOPIC, 0, grey(20)), (TOPIC, 1, broken), (TOPIC, 2, grey(200))]
    bag = write_drive(tmp_path / "d", frames, "jpg")
    assert "expected a readable image" in message(lambda: len(opened(bag)))
    source = opened(bag, on_bad_image="skip")
    assert seconds(source) == [0, 2]
    assert source.skipped == (f"front/image_raw/{START + 10**9}",)
    assert source.coverage.unreadable == 1
    only = write_drive(tmp_path / "only", [(TOPIC, 0, broken)], "jpg")
    assert "expected a readable frame, got 1 that are not" in message(lambda: len(opened(only, on_bad_image="skip")))


def test_a_truncated_bag_is_told(steps):
    (file,) = (path for path in steps.iterdir() if path.name != "metadata.yaml")
    file.write_bytes(file.read_bytes()[:4000])
    assert str(steps) in message(lambda: [sample.name for sample in opened(steps)])


def test_a_long_drive_is_streamed(tmp_path, write_drive):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (360, 640, 3), np.uint8)  # 0.7 MB

    def peak(frames):
        shifted = ((TOPIC, i / 10, np.roll(image, 40 * i, axis=1)) for i in range(frames))
        bag = write_drive(tmp_path / str(frames), shifted, "raw")
        source = opened(bag, count=8)
        assert len(source) == 8  # what is imported on the way is no part of it
        source = opened(bag, count=8)
        tracemalloc.start()
        for _ in source:
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(48) < peak(12) + 2e6
