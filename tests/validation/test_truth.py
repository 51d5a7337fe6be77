import numpy as np
import pytest
from PIL import Image

from avcompress.recipe import ImageSource, KittiSource, SceneSource
from avcompress.spec import DataError
from calibration.sample import VOID, LabelledBox, Sample, stack
from calibration.source import open_source
from validation.mask_png import decode_mask
from validation.truth import mean_luma, read_truth

KITTI = KittiSource(format="kitti", images="kitti_mini/training/image_2", labels="kitti_mini/training/label_2")


class Samples:
    """A source of samples as they are."""

    classes = ("car", "person")
    fingerprint = "f" * 64
    skipped = ()

    def __init__(self, *samples):
        self.samples = samples
        self.names = tuple(sample.name for sample in samples)

    def __len__(self):
        return len(self.samples)

    def __iter__(self):
        return iter(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def image(height=4, width=6, colour=(0, 0, 0)):
    return np.full((height, width, 3), colour, np.uint8)


def test_the_objects_of_all_images_come_one_after_the_other():
    kinds = {"colour": str, "distance_m": float}
    box = LabelledBox((1, 2, 3, 4), 1, 4.0, attributes={"colour": "light red", "distance_m": 7.0})
    first = stack([box], kinds)
    last = stack([LabelledBox((0, 0, 2, 2), 0, 4.0, crowd=True), box], kinds)
    bare = stack([LabelledBox((0, 0, 1, 1), None, 1.0)])

    truth = read_truth(
        Samples(
            Sample("a", image(), first, tags={"light": "day"}),
            Sample("b", image(8), stack([], kinds)),
            Sample("c", image(), last, tags={"weather": "rain"}),
            Sample("d", image(), bare),
        )
    )

    assert truth.names == ("a", "b", "c", "d")
    assert truth.sizes.tolist() == [[4, 6], [8, 6], [4, 6], [4, 6]]
    assert {name: values.tolist() for name, values in truth.tags.items()} == {
        "light": ["day", "", "", ""],
        "weather": ["", "", "rain", ""],
    }
    objects = truth.objects
    assert objects.image.tolist() == [0, 2, 2, 3]
    assert objects.xyxy.tolist() == [[1, 2, 3, 4], [0, 0, 2, 2], [1, 2, 3, 4], [0, 0, 1, 1]]
    assert objects.labels.tolist() == [1, 0, 1, -1]
    assert objects.ignore.tolist() == [False, True, False, True]
    assert objects.attributes["colour"].tolist() == ["light red", "", "light red", ""]
    np.testing.assert_array_equal(objects.attributes["distance_m"], [7, np.nan, 7, np.nan])
    assert truth.masks is None


def test_brightness_is_the_mean_luma_of_bt_601():
    picture = np.random.default_rng(0).integers(0, 256, (31, 17, 3), np.uint8)

    expected = (picture.astype(np.float64) @ (0.299, 0.587, 0.114)).mean()

    assert mean_luma(picture) == pytest.approx(expected, abs=1e-9)
    assert mean_luma(image(colour=(255, 255, 255))) == pytest.approx(255)
    grey = np.asarray(Image.fromarray(picture).convert("L"), np.float64).mean()
    assert mean_luma(picture) == pytest.approx(grey, abs=1)


def test_masks_are_kept_as_png_without_loss():
    masks = [np.random.default_rng(n).choice([0, 1, VOID], (9, 13)).astype(np.uint8) for n in range(3)]

    truth = read_truth(Samples(*(Sample(str(n), image(9, 13), mask=mask) for n, mask in enumerate(masks))))

    assert truth.objects is None
    assert all((decode_mask(png) == mask).all() for png, mask in zip(truth.masks, masks, strict=True))


def test_images_without_labels_are_refused(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    source = open_source(ImageSource(format="images", images="."), tmp_path)

    with pytest.raises(DataError, match=r"a\.png: expected boxes or a mask, got neither"):
        read_truth(source)
    with pytest.raises(DataError, match="expected boxes or masks, got 1 and 1"):
        read_truth(Samples(Sample("a", image(), stack([])), Sample("b", image(), mask=np.zeros((4, 6), np.uint8))))


def test_unreadable_images_that_may_be_skipped_are_left_out(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for stem in ("a", "b", "c"):
        Image.new("RGB", (60, 40)).save(tmp_path / "images" / f"{stem}.png")
        (tmp_path / "labels" / f"{stem}.txt").write_text(f"Car 0 0 0 1 1 9 {ord(stem) - 90} 1 1 1 1 1 5 0")
    (tmp_path / "images" / "b.png").write_bytes(b"none")
    settings = KittiSource(format="kitti", images="images", labels="labels", on_bad_image="skip")

    truth = read_truth(open_source(settings, tmp_path))

    assert truth.names == ("a.png", "c.png")
    assert truth.objects.image.tolist() == [0, 1]
    assert truth.objects.xyxy[:, 3].tolist() == [7, 9]


def test_it_can_be_watched_and_reads_every_image_once():
    seen = []

    def track(items, total=None):
        seen.append(total)
        yield from items

    source = open_source(SceneSource(format="scenes", count=3, size=(96, 160)), None)
    truth = read_truth(source, track)

    assert seen == [3]
    assert truth.names == source.names
    assert truth.fingerprint == source.fingerprint
    assert set(truth.tags) == {"light", "weather", "setting"}
    assert set(truth.objects.attributes) == {"occlusion", "distance_m"}


def test_kitti_mini_tells_distance_occlusion_and_truncation(data_root):
    source = open_source(KITTI, data_root)

    truth = read_truth(source)

    objects = truth.objects
    assert len(truth.names) == 31
    assert len(objects.labels) == 192
    assert np.array_equal(np.isnan(objects.attributes["distance_m"]), objects.attributes["type"] == "DontCare")
    kept = ~objects.ignore
    assert np.nanmin(objects.attributes["distance_m"][kept]) > 0
    assert set(objects.attributes["occlusion"][kept]) <= {"none", "partly", "largely", "unknown"}
    texts = [path.read_text() for path in sorted((data_root / KITTI.labels).iterdir())]
    lines = [line.split() for text in texts for line in text.splitlines()]
    occluded = [float(fields[2]) for fields in lines if fields[0] != "DontCare"]
    assert objects.attributes["occlusion_level"][kept].tolist() == occluded
