"""validation.corruptions: the same bytes each time, worse with severity, labels and names as they were."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.recipe import SceneSource
from avcompress.spec import DataError, RecipeError
from calibration.part import take_part
from calibration.scenes import open_scenes
from validation.corruptions import (
    NAMES,
    SEVERITIES,
    VERSION,
    CorruptedSource,
    Corruption,
    corrupt,
    image_seed,
    parse_corruptions,
)
from validation.corruptions.camera import NOISE
from validation.corruptions.fields import add_sensor_noise_, to_linear, to_srgb


@pytest.fixture(scope="module")
def scenes():
    return open_scenes(SceneSource(format="scenes", count=3, seed=8, size=(96, 160)))


@pytest.fixture(scope="module")
def images(scenes):
    return [sample.image for sample in scenes]


def structural_similarity(a, b):
    """Mean SSIM of the luma, Gaussian windows. Source: Wang et al., IEEE TIP 2004."""
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) for image in (a, b))

    def mean(values):
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


@pytest.mark.parametrize("name", NAMES)
def test_a_greater_severity_is_farther_from_the_clean_image(name, images):
    for image in images:
        for seed in (0, 1, 2):
            found = [image, *(corrupt(image, name, severity, seed) for severity in SEVERITIES)]
            difference = [float(np.abs(picture.astype(float) - image).mean()) for picture in found]
            likeness = [structural_similarity(picture, image) for picture in found]

            assert difference == sorted(set(difference)), (seed, difference)
            assert likeness == sorted(set(likeness), reverse=True), (seed, likeness)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_arguments_give_the_same_bytes_and_the_image_stays_untouched(name, images):
    image = images[0].copy()

    first, again = corrupt(image, name, 3, 7), corrupt(image, name, 3, 7)

    assert first.tobytes() == again.tobytes()
    assert first.dtype == np.uint8
    assert first.shape == image.shape
    assert np.array_equal(image, images[0])


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"jpeg", "exposure", "under_exposure"}))
def test_another_seed_gives_another_picture(name, images):
    pictures = {corrupt(images[0], name, 3, seed).tobytes() for seed in range(4)}

    assert len(pictures) == 4


@given(
    height=st.integers(32, 90),
    width=st.integers(32, 140),
    name=st.sampled_from(NAMES),
    severity=st.sampled_from(SEVERITIES),
    flat=st.sampled_from((None, 0, 255)),
    seed=st.integers(0, 2**64 - 1),
)
@settings(max_examples=150, deadline=None)
def test_any_size_and_any_content_keeps_its_shape(height, width, name, severity, flat, seed):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    if flat is not None:
        image[:] = flat

    found = corrupt(image, name, severity, seed)

    assert found.shape == image.shape
    assert found.dtype == np.uint8


def test_an_image_in_other_memory_is_the_same_image(images):
    mirrored = images[0][:, ::-1]

    for name in NAMES:
        assert np.array_equal(corrupt(mirrored, name, 2, 1), corrupt(mirrored.copy(), name, 2, 1))


def test_light_comes_back_as_the_same_bytes():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)

    assert np.array_equal(to_srgb(to_linear(image)), image)
    # IEC 61966-2-1: 128 / 255 is a light of 0.2158605.
    assert to_linear(np.full((1, 1, 3), 128, np.uint8))[0, 0, 0] == pytest.approx(0.2158605, abs=1e-6)


def test_exposure_doubles_light_by_the_stop():
    image = np.full((32, 32, 3), 60, np.uint8)
    stops = Corruption("exposure", 2).level.stops

    found = corrupt(image, "exposure", 2)

    # 60 / 255 is a light of 0.0451862; 1.2 stops make it 0.1038109, which sRGB writes as 90.9.
    assert stops == 1.2
    assert np.unique(found).tolist() == [91]


def test_noise_has_the_variance_it_says():
    light = np.full((400, 400, 3), 0.25, np.float32)
    shot, read = NOISE[2]

    noisy = add_sensor_noise_(light.copy(), shot, read, np.random.default_rng(0)) - light

    assert noisy.mean() == pytest.approx(0, abs=4 * np.sqrt(shot * 0.25 / noisy.size))
    assert noisy.var() == pytest.approx(shot * 0.25 + read**2, rel=0.01)


def test_fog_takes_more_contrast_from_what_is_far():
    stripes = np.where(np.arange(160) // 4 % 2, 60, 160).astype(np.uint8)
    image = np.repeat(np.tile(stripes, (120, 1))[..., None], 3, axis=2)

    found = corrupt(image, "fog", 3, 0).astype(float)

    contrast = [found[rows, :, 0].std() for rows in (slice(0, 40), slice(80, 100), slice(110, 120))]
    assert contrast == sorted(contrast)
    assert contrast[0] < 0.6 * contrast[2]


def test_motion_blur_leaves_things_where_they_are():
    image = np.zeros((96, 160, 3), np.uint8)
    image[20:28, 30:38] = 255

    for seed in range(6):
        light = to_linear(corrupt(image, "motion_blur", 3, seed))[..., 0]
        rows, columns = np.indices(light.shape)
        centre = np.array([(light * rows).sum(), (light * columns).sum()]) / light.sum()
        assert np.abs(centre - (23.5, 33.5)).max() < 0.5, seed


def test_glare_is_in_the_upper_half():
    image = np.full((96, 160, 3), 40, np.uint8)

    for seed in range(20):
        row, _ = np.unravel_index(corrupt(image, "glare", 1, seed)[..., 0].argmax(), (96, 160))
        assert row < 48


def test_a_source_keeps_labels_names_and_tags(scenes):
    source = CorruptedSource(scenes, Corruption("rain", 2), seed=3)

    assert (source.names, source.classes, source.skipped, len(source)) == (
        scenes.names,
        scenes.classes,
        scenes.skipped,
        len(scenes),
    )
    for clean, found in zip(scenes, source, strict=True):
        assert found.name == clean.name
        assert found.tags == clean.tags
        assert np.array_equal(found.boxes.xyxy, clean.boxes.xyxy)
        assert not np.array_equal(found.image, clean.image)
        seed = image_seed(clean.name, "rain", 3)
        assert np.array_equal(found.image, corrupt(clean.image, "rain", 2, seed))


def test_an_image_is_corrupted_alike_in_any_part_and_order(scenes):
    whole = CorruptedSource(scenes, Corruption("glare", 4))
    part = CorruptedSource(take_part(scenes, 2, 2), Corruption("glare", 4))

    assert np.array_equal(part[0].image, whole[1].image)
    assert np.array_equal(list(whole)[2].image, whole[2].image)


def test_the_fingerprint_knows_corruption_severity_seed_and_images(scenes):
    sources = [
        scenes,
        CorruptedSource(scenes, Corruption("fog", 1)),
        CorruptedSource(scenes, Corruption("fog", 2)),
        CorruptedSource(scenes, Corruption("dirt", 1)),
        CorruptedSource(scenes, Corruption("fog", 1), seed=1),
        CorruptedSource(take_part(scenes, 1, 2), Corruption("fog", 1)),
    ]

    assert len({source.fingerprint for source in sources}) == len(sources)
    assert sources[1].fingerprint == CorruptedSource(scenes, Corruption("fog", 1)).fingerprint


def test_a_recipe_s_corruptions_become_slices_in_their_order():
    found = parse_corruptions({"rain": (5,), "fog": (3, 1, 3)})

    assert [corruption.slice for corruption in found] == ["rain:5", "fog:3", "fog:1"]
    assert found[1] == Corruption("fog", 3)
    assert parse_corruptions({}) == ()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"frog": (1,)}, r"corruptions: expected one of fog, rain, .*, got 'frog'; did you mean fog\?"),
        ({"motionblur": (1,)}, r"got 'motionblur'; did you mean motion_blur\?"),
        ({"zzz": (1,)}, "got 'zzz'; name one of these"),
        ({"fog": ()}, r"corruptions\.fog: expected severities of 1-5, got none; write \[3\]"),
        ({"fog": (6,)}, r"corruptions\.fog: expected severities of 1-5, got 6"),
    ],
)
def test_what_a_recipe_gets_wrong_is_told_in_one_line(wanted, message):
    with pytest.raises(RecipeError, match=message):
        parse_corruptions(wanted)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((31, 64, 3), np.uint8), r"uint8 of shape \(31, 64, 3\)"),
        (np.zeros((64, 64), np.uint8), r"uint8 of shape \(64, 64\)"),
        (np.zeros((64, 64, 3), np.float32), "float32"),
        ([[0]], "got list"),
    ],
)
def test_what_is_no_image_is_refused(image, got):
    with pytest.raises(DataError, match=got):
        corrupt(image, "fog", 1)
    with pytest.raises(RecipeError, match="got 0"):
        corrupt(image, "fog", 0)


def test_pictures_are_those_of_this_version():
    """A change here changes every figure that was measured on corrupted images: count VERSION up with it."""
    y, x = np.indices((64, 96))
    image = np.stack([y * 4, x * 2.6, (x * 5) % 256], -1).astype(np.uint8)

    means = {name: corrupt(image, name, 3, 5).mean(axis=(0, 1)).tolist() for name in NAMES}

    assert VERSION == 1
    assert means == {
        "fog": pytest.approx([176.6, 162.4, 159.1], abs=0.5),
        "rain": pytest.approx([133.9, 126.4, 124.8], abs=0.5),
        "night": pytest.approx([47.2, 41.8, 43.9], abs=0.5),
        "glare": pytest.approx([159.9, 153.3, 150.0], abs=0.5),
        "motion_blur": pytest.approx([126.0, 123.1, 121.6], abs=0.5),
        "noise": pytest.approx([123.9, 121.5, 118.4], abs=0.5),
        "jpeg": pytest.approx([126.2, 122.8, 120.7], abs=0.5),
        "dirt": pytest.approx([124.2, 122.7, 116.0], abs=0.5),
        "exposure": pytest.approx([180.5, 178.9, 177.1], abs=0.5),
        "under_exposure": pytest.approx([50.8, 49.4, 48.0], abs=0.5),
    }
