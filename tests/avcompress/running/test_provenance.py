"""What a bundle keeps of the images that it was calibrated on: drives, and what the images look like."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.quant.observe import observe
from avcompress.recipe import Preprocess
from avcompress.running.compress import Calibrated, Compressed
from avcompress.running.provenance import bands, calibration_facts, familiar_of
from calibration.batches import Batches
from calibration.figures import input_figures
from calibration.preprocess import preprocess
from calibration.sample import Sample
from calibration.statistics import Drive, Statistics, merge_statistics
from calibration.statistics_file import from_bytes, load_statistics, save_statistics, to_bytes

SIZE = (8, 12)
SETTINGS = Preprocess(size=SIZE, fit="stretch")
DRIVE = Drive("monday", "a" * 64, "/front", '{"seed":0}', (10, 20), (1, 2))


class Images:
    """A source of noise, brighter from image to image."""

    classes = skipped = ()
    fingerprint = ""

    def __init__(self, first, count):
        self.names = tuple(f"{first + i:03d}" for i in range(count))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        rng = np.random.default_rng(int(self.names[index]))
        return Sample(self.names[index], rng.integers(0, 20 + int(self.names[index]), (*SIZE, 3), np.uint8))

    def __iter__(self):
        return (self[i] for i in range(len(self)))


@pytest.fixture
def network():
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) * 2, "w")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *SIZE])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, *SIZE])
    nodes = [helper.make_node("Conv", ["image", "w"], ["c"]), helper.make_node("Relu", ["c"], ["out"])]
    graph = helper.make_graph(nodes, "double", [image], [out], [weight])
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


def collected(network, first=0, count=60):
    return observe(network, ("image", "c"), Batches(Images(first, count), SETTINGS, "image"))


def compressed(path):
    return Compressed(path, path, path, None, path, {}, {}, calibration=Calibrated(path, "mse"))


def test_figures_of_every_image_are_collected_in_the_order_of_their_names(network):
    found = collected(network, count=5)
    for i, sample in enumerate(Images(0, 5)):
        one = input_figures(*preprocess(sample.image, SETTINGS), SETTINGS)
        for name, value in one.items():
            assert found.figures[name][i] == np.float32(value)
        assert found.figures["out.high"][i] == 2 * sample.image.max()
    assert set(found.tensors) == {"image", "c"}


def test_the_bundle_gets_the_bands_that_most_images_are_in(network, tmp_path):
    found = collected(network)
    save_statistics(found, tmp_path / "s")
    known = familiar_of(compressed(tmp_path / "s"))
    assert known.images == 60
    low, high = np.percentile(found.figures["brightness"], (1, 99))
    assert (known.figures["brightness"].low, known.figures["brightness"].high) == pytest.approx((low, high))
    assert "out.mean" in known.figures


def test_bands_by_hand_and_none_of_what_is_not_finite():
    known = bands({"a": np.arange(101, dtype=np.float32), "b": np.float32([0] * 100 + [np.nan])})
    assert known.figures.keys() == {"a"}
    assert (known.figures["a"].low, known.figures["a"].high) == (1, 99)
    assert bands({}) is None
    assert bands({"b": np.float32([np.inf])}) is None


def test_statistics_of_older_files_say_nothing_and_are_the_bytes_they_were(network, tmp_path):
    found = collected(network, count=3)
    older = Statistics(found.network, found.preprocess, found.images, found.tensors)
    assert b"figures" not in to_bytes(older)
    assert b"drives" not in to_bytes(older)
    save_statistics(older, tmp_path / "s")
    assert familiar_of(compressed(tmp_path / "s")) is None
    assert calibration_facts(compressed(tmp_path / "s")).drives == ()


def test_a_file_holds_figures_and_drives(network):
    found = collected(network, count=4)
    found = Statistics(found.network, found.preprocess, found.images, found.tensors, (DRIVE,), found.figures)
    again = from_bytes(to_bytes(found))
    assert again.drives == (DRIVE,)
    assert again.figures.keys() == found.figures.keys()
    for name, values in found.figures.items():
        np.testing.assert_array_equal(again.figures[name], values)
    assert to_bytes(again) == to_bytes(found)


def test_parts_merge_to_the_bytes_of_the_whole_in_any_order(network):
    whole = collected(network, 0, 10)
    a, b = collected(network, 0, 4), collected(network, 4, 6)
    assert to_bytes(merge_statistics({"b": b, "a": a})) == to_bytes(whole)
    assert to_bytes(merge_statistics({"a": a, "b": b})) == to_bytes(whole)


def test_the_manifest_names_the_drives(network, tmp_path):
    found = collected(network, count=2)
    save_statistics(Statistics(found.network, found.preprocess, found.images, found.tensors, (DRIVE,)), tmp_path / "s")
    (drive,) = calibration_facts(compressed(tmp_path / "s")).drives
    assert (drive.bag, drive.topic, drive.selection) == ("monday", "/front", {"seed": 0})
    assert (drive.recorded_ns, drive.stamps_ns) == ((10, 20), (1, 2))
    assert json.loads(drive.model_dump_json())["sha256"] == "a" * 64
    assert load_statistics(tmp_path / "s").drives == (DRIVE,)
