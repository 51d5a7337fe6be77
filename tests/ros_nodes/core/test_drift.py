"""Drift: what is told, when, and what never happens to the frames because of it."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.recipe import ImageSource
from calibration.figures import input_figures
from calibration.frame import CompressedImage, Header, RawImage
from calibration.images import open_images
from calibration.preprocess import preprocess
from engines.manifest import Band, Familiar
from ros_nodes.core.diagnostics import Level
from ros_nodes.core.drift import WINDOW, CameraDrift
from ros_nodes.core.samples import Sample, Samples


def familiar(**bands):
    return Familiar(images=100, figures={name: Band(low=low, high=high) for name, (low, high) in bands.items()})


# --- one camera


def test_the_mean_of_the_images_is_held_against_the_band_by_hand():
    camera = CameraDrift()
    band = familiar(a=(10, 20))
    for value in (10, 30):
        camera.look({"a": value}, band, 0.1, 2)
    assert camera.worst.value == 20  # the mean of both, just inside
    assert camera.worst.by == 0
    camera.look({"a": 50}, band, 0.1, 2)
    assert camera.worst.value == 30
    assert camera.worst.by == 1  # one width beyond
    assert not camera.drifting
    camera.look({"a": 50}, band, 0.1, 2)
    assert camera.drifting


def test_the_figure_that_is_farthest_outside_is_named():
    camera = CameraDrift()
    camera.look({"a": 40, "b": 5, "c": 1}, familiar(a=(10, 20), b=(0, 1), c=(0, 10)), 0.1, 1)
    assert (camera.worst.figure, camera.worst.by) == ("b", 4)


def test_hysteresis_between_the_tolerance_and_its_half_nothing_changes():
    band = familiar(a=(0, 100))

    def state(values):
        camera = CameraDrift()
        for value in values:
            camera._means = {}  # each value as it is
            camera.look({"a": value}, band, 0.1, 3)
        return camera.drifting

    assert not state([110] * 9)  # at the tolerance
    assert not state([111, 111])
    assert not state([111, 111, 105, 111, 111])
    assert state([111] * 3)
    assert state([111] * 3 + [106] * 9)  # within the tolerance, beyond its half
    assert state([111] * 3 + [105] * 2 + [106] + [105] * 2)
    assert not state([111] * 3 + [105] * 3)


def test_a_figure_that_never_changed_in_calibration_has_a_tenth_of_itself_for_a_width():
    camera = CameraDrift()
    camera.look({"a": 256}, familiar(a=(255, 255)), 0.1, 1)
    assert camera.worst.by == pytest.approx(1 / 25.5)


def test_one_image_that_is_not_finite_is_outside_and_forgotten_with_the_next():
    camera, band = CameraDrift(), familiar(a=(0, 1))
    camera.look({"a": np.nan}, band, 0.1, 5)
    assert camera.worst.by == np.inf
    camera.look({"a": 0.5}, band, 0.1, 5)
    assert camera.worst.by < 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=100), st.floats(0.01, 1), st.integers(1, 20))
def test_images_inside_the_band_never_drift(values, tolerance, after):
    camera = CameraDrift()
    for value in values:
        camera.look({"a": value}, familiar(a=(0, 1)), tolerance, after)
        assert not camera.drifting


@given(st.integers(1, 15))
def test_what_leaves_for_good_is_told_and_what_comes_back_is_forgiven(after):
    camera, band = CameraDrift(), familiar(a=(0, 1))
    for _ in range(100):
        camera.look({"a": 0.5}, band, 0.1, after)
    for _ in range(2 * WINDOW + after):
        camera.look({"a": 2.0}, band, 0.1, after)
    assert camera.drifting
    for _ in range(4 * WINDOW + after):
        camera.look({"a": 0.5}, band, 0.1, after)
    assert not camera.drifting


# --- a node


def scene(seed, night=False, swapped=False, gain=1.0):
    """A road: a blue sky over grey ground and a red house, of a light that varies."""
    rng = np.random.default_rng(seed)
    image = np.empty((48, 96, 3), np.float32)
    light = rng.uniform(0.8, 1.2) * (0.15 if night else 1.0) * gain
    image[:20], image[20:] = (90, 120, 200), (100, 100, 95)
    image[10:30, 10:40] = (150, 70, 60)
    image = np.clip(image * light + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image[:, :, ::-1]) if swapped else image


@pytest.fixture
def make_bench(bench):
    """A node with all around it; not named `bench`, as those that it makes are."""
    return bench


@pytest.fixture
def rig(make_bench):
    """A node whose bundle knows a hundred such scenes, and a function that shows it images."""

    def make(known=True, **settings):
        bench = make_bench(drift_every=1, **settings)
        if known:
            teach(bench)
        bench.start()
        return bench

    return make


def teach(bench):
    engine = bench.engines["main"]
    served = engine.served

    def knowing(batch):
        found = served(batch)
        made = found.manifest.preprocess
        rows = [input_figures(*preprocess(scene(seed), made), made) for seed in range(100)]
        ends = {name: np.percentile([row[name] for row in rows], (1, 99)) for name in rows[0]}
        known = familiar(**ends)
        object.__setattr__(found, "manifest", found.manifest.model_copy(update={"familiar": known}))
        return found

    engine.served = knowing


def show(bench, images, camera="front"):
    for image in images:
        bench.time.pass_ms(100)
        header = Header(bench.time.now // 10**9, bench.time.now % 10**9, camera)
        bench.node.receive(camera, RawImage(header, 48, 96, "rgb8", 288, image.ravel()))
        assert bench.node.step()
    return drift(bench)


def drift(bench):
    bench.node.report()
    return bench.port.reports[-1]["drift"]


def test_scenes_like_those_of_calibration_are_not_told(rig):
    status = show(rig(), [scene(1000 + i) for i in range(200)])
    assert (status.level, status.message) == (Level.OK, "OK")
    assert status.values["watched"] == "200"
    assert status.values["errors"] == "0"


@pytest.mark.parametrize(
    ("change", "figure"), [({"night": True}, ""), ({"gain": 3.0}, ""), ({"swapped": True}, "tint")]
)
def test_night_overexposure_and_exchanged_channels_are_told_and_forgiven(rig, change, figure):
    bench = rig()
    assert show(bench, [scene(1000 + i) for i in range(30)]).level == Level.OK
    status = show(bench, [scene(2000 + i, **change) for i in range(60)])
    assert status.level == Level.WARN
    assert status.message.startswith(f"unlike the calibration images: front: {figure}")
    assert status.values["front"] == "drifting"
    assert show(bench, [scene(3000 + i) for i in range(150)]).level == Level.OK


def test_each_camera_has_a_state_of_its_own(rig):
    bench = rig(cameras=("front", "rear"))
    for i in range(60):
        show(bench, [scene(i)])
        status = show(bench, [scene(i, night=True)], "rear")
    assert (status.values["front"], status.values["rear"]) == ("ok", "drifting")
    assert "rear: " in status.message
    assert "front: " not in status.message


def test_only_every_so_many_images_are_looked_at(make_bench):
    bench = make_bench(drift_every=10)
    teach(bench)
    bench.start()
    assert show(bench, [scene(i) for i in range(35)]).values["watched"] == "4"


def test_an_older_bundle_is_served_and_says_that_nothing_is_known(rig):
    status = show(rig(known=False), [scene(i, night=True) for i in range(50)])
    assert (status.level, status.message) == (Level.OK, "no calibration statistics")
    assert status.values["watched"] == "0"


def test_before_the_first_image_the_bundle_is_asked_what_is_known(make_bench, rig):
    assert drift(make_bench(drift_every=1)).message == "unconfigured"
    assert drift(rig(known=False)).message == "no calibration statistics"
    bench = rig()
    assert drift(bench).message == "waiting for the first image"
    bench.node.transition("deactivate")
    assert drift(bench).message == "inactive"
    bench.node.transition("activate")
    assert show(bench, [scene(0)]).message == "OK"


def test_it_can_be_turned_off(make_bench):
    bench = make_bench(drift_every=0)
    teach(bench)
    bench.start()
    status = show(bench, [scene(i, night=True) for i in range(50)])
    assert (status.level, status.message, status.values["watched"]) == (Level.OK, "off", "0")


def test_what_fails_in_the_watch_is_counted_and_every_frame_is_published(rig, monkeypatch):
    from ros_nodes.core import drift_watch

    def fail(*_):
        raise ValueError("no such\nfigure")

    monkeypatch.setattr(drift_watch, "figures_of", fail)
    bench = rig()
    status = show(bench, [scene(i) for i in range(7)])
    assert len(bench.port.published) == 7
    assert status.values["errors"] == "7"
    assert "no such" in status.values["last_error"]
    assert bench.node.state.label == "active"


# --- samples


def test_an_image_of_the_drift_is_kept_with_its_facts_and_calibration_takes_the_folder(rig, tmp_path):
    folder = tmp_path / "odd"
    bench = rig(drift_samples=str(folder), drift_sample_every_ms=2000)
    show(bench, [scene(i) for i in range(30)])
    bench.node.save_samples()
    assert not folder.exists()
    dark = [scene(500 + i, night=True) for i in range(60)]
    for image in dark:
        status = show(bench, [image])
        bench.node.save_samples()
    found = open_images(ImageSource(format="images", images="odd"), tmp_path, None)
    # 60 images are 6 s: the first at the beginning of the drift, then one every 2 s.
    assert 2 <= len(found) <= 3
    assert status.values["samples_saved"] in {str(len(found)), str(len(found) - 1)}
    assert any(np.array_equal(found[0].image, image) for image in dark)
    facts = json.loads((folder / found.names[0].replace(".png", ".json")).read_text())
    assert facts["camera"] == "front"
    assert found.names[0] == f"front_{facts['stamp_ns']:019d}.png"
    assert facts["figures"]["brightness"] < facts["drift"]["low"] or facts["drift"]["figure"] != "brightness"
    assert facts["engine"] == "tiny revision 1, ort"


def test_a_file_of_the_camera_is_kept_as_it_came(rig, tmp_path):
    bench = rig(drift_samples=str(tmp_path))
    data = cv2.imencode(".jpg", scene(0, night=True))[1].ravel()
    for _ in range(30):
        bench.time.pass_ms(100)
        header = Header(bench.time.now // 10**9, bench.time.now % 10**9, "front")
        bench.node.receive("front", CompressedImage(header, "jpeg", data))
        bench.node.step()
    bench.node.save_samples()
    (kept,) = tmp_path.glob("*.jpg")
    assert kept.read_bytes() == data.tobytes()


@pytest.mark.parametrize("bound", [{"drift_max_samples": 2}, {"drift_max_mb": 0.05}])
def test_the_folder_has_a_bound_that_counts_what_was_there(rig, tmp_path, bound):
    for _ in range(2):  # a node that is started again counts those of before
        bench = rig(drift_samples=str(tmp_path), drift_sample_every_ms=1, **bound)
        for i in range(40):
            show(bench, [scene(i, night=True)])
            bench.node.save_samples()
        status = drift(bench)
        assert int(status.values["samples_refused"]) > 20
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size <= 50_000 or len(list(tmp_path.glob("*.png"))) == 2


def test_samples_of_a_camera_without_a_clock_have_names_of_their_own(tmp_path):
    for _ in range(2):  # also beside those of an earlier drive
        samples = Samples(str(tmp_path), 100, 10**9)
        for camera in ("front", "front", "rear"):
            image = RawImage(Header(), 4, 4, "rgb8", 12, np.full(48, len(list(tmp_path.iterdir())), np.uint8))
            samples.write(Sample(camera, image, "e", {}, None))
        assert samples.saved == 3
    names = {f"front_{0:019d}{more}" for more in ("", "_1", "_2", "_3")} | {f"rear_{0:019d}", f"rear_{0:019d}_1"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {path.stem for path in tmp_path.glob("*.json")} == names
    assert len({path.read_bytes() for path in tmp_path.glob("*.png")}) == 6


def test_a_sample_that_comes_before_the_one_before_is_written_is_left_out_and_counted(rig, tmp_path):
    bench = rig(drift_samples=str(tmp_path), drift_sample_every_ms=500)
    status = show(bench, [scene(i, night=True) for i in range(40)])  # one every 100 ms, and nobody writes
    left_out = int(status.values["samples_refused"])
    assert left_out >= 3
    bench.node.save_samples()
    (kept,) = tmp_path.glob("*.png")
    first_ns = int(kept.stem.removeprefix("front_"))
    assert bench.time.now - first_ns >= left_out * 500_000_000
    assert drift(bench).values["samples_saved"] == "1"


def test_a_folder_that_cannot_be_written_is_counted(rig, tmp_path):
    (tmp_path / "file").write_text("")
    bench = rig(drift_samples=str(tmp_path / "file" / "odd"))
    show(bench, [scene(i, night=True) for i in range(40)])
    bench.node.save_samples()
    status = drift(bench)
    assert status.values["errors"] == "1"
    assert "file" in status.values["last_error"]
    assert len(bench.port.published) == 40
