"""Drift on a real drive: CamVid's validation images against every other one of its training images."""

import numpy as np
import pytest

from avcompress.recipe import Preprocess
from calibration.decode import decode_image
from calibration.figures import input_figures
from calibration.preprocess import preprocess
from ros_nodes.core.drift import CameraDrift
from ros_nodes.core.settings import Settings

SETTINGS = Preprocess(size=(416, 416), anchor="top_left", channels="bgr")
DEFAULTS = Settings(bundle="")


def figures(image):
    return input_figures(*preprocess(image, SETTINGS), SETTINGS)


@pytest.fixture(scope="module")
def known(data_root):
    pytest.importorskip("torch", reason="what writes a bundle needs it")
    from avcompress.running.provenance import bands

    paths = sorted((data_root / "camvid/images/train").iterdir())[::2]
    rows = [figures(decode_image(path)) for path in paths]
    return bands({name: np.array([row[name] for row in rows], np.float32) for name in rows[0]})


@pytest.fixture(scope="module")
def drive(data_root):
    return [decode_image(path) for path in sorted((data_root / "camvid/images/val").iterdir())]


def told(known, images):
    camera = CameraDrift()
    states = []
    for image in images:
        camera.look(figures(image), known, DEFAULTS.drift_tolerance, DEFAULTS.drift_after)
        states.append(camera.drifting)
    return states


@pytest.mark.slow
def test_a_drive_like_those_of_calibration_is_never_told(known, drive):
    assert not any(told(known, drive))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: (image * 0.25).astype(np.uint8), id="dark"),
        pytest.param(lambda image: np.clip(image * 2.2 + 40, 0, 255).astype(np.uint8), id="overexposed"),
        pytest.param(lambda image: np.ascontiguousarray(image[:, :, ::-1]), id="red and blue exchanged"),
    ],
)
def test_a_change_of_the_camera_is_told_within_a_hundred_images(known, drive, change):
    states = told(known, [*drive[:30], *map(change, [*drive[30:], *drive[:30]])])
    assert not any(states[:30])
    assert states[-1]
