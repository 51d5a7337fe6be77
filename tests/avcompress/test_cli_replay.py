"""A real detector over a real drive: what is in the bag is what validation sees in the same images."""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from avcompress.cli import app
from avcompress.contract import Contract, LatencyTerm
from avcompress.files import sha256_file
from avcompress.recipe import Detection, OpenVinoEngine, Preprocess
from calibration.decode import decode_image_bytes
from calibration.frame import Header
from calibration.sample import Sample
from engines.build import build_engine
from engines.bundle import Trust, load_bundle
from engines.manifest import Manifest, network_tensors, write_manifest
from ros_nodes.bag.library import RosbagsLibrary, encode, typestore
from ros_nodes.messages.outgoing import header_message
from validation.predict import predict

START = 10**18
ENGINE = OpenVinoEngine(backend="openvino", threads=1)  # so that processor time says how long it takes


def command(*arguments):
    """The command's exit code and what it said."""
    from types import SimpleNamespace

    found = CliRunner().invoke(app, ["replay", *map(str, arguments)], obj=SimpleNamespace(install=lambda: None))
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.output


def make_bundle(onnx, folder):
    folder.mkdir()
    (folder / "model.onnx").write_bytes(onnx.read_bytes())
    built = build_engine(folder / "model.onnx", folder / "engine", ENGINE)
    inputs, outputs = network_tensors(folder / "model.onnx")
    write_manifest(
        folder,
        Manifest(
            name="yolox_nano",
            engine=ENGINE,
            versions=dict(built.versions),
            inputs=inputs,
            outputs=outputs,
            preprocess=Preprocess(size=(416, 416), anchor="top_left", channels="bgr"),
            task=Detection(kind="detection", decode="yolox"),
            classes=tuple(f"c{i}" for i in range(80)),
            contract=Contract(latency=(LatencyTerm(deadline_ms=100),)),
            onnx_sha256=sha256_file(folder / "model.onnx"),
            recipe_sha256="0" * 64,
        ),
    )
    return folder


def film(path, count):
    """The first frames of a video as JPEG files."""
    video = cv2.VideoCapture(str(path))
    files = []
    while len(files) < count and (read := video.read())[0]:
        files.append(cv2.imencode(".jpg", read[1])[1].tobytes())
    return files


def write_drive(path, files, every_ms, topics=("/front/image_raw/compressed",)):
    from rosbags.rosbag2 import Writer

    library, kind = RosbagsLibrary(), "sensor_msgs/msg/CompressedImage"
    with Writer(path, version=8) as writer:
        connection, *_ = [writer.add_connection(topic, kind, typestore=typestore()) for topic in topics]
        for index, data in enumerate(files):
            stamp = START + index * every_ms * 10**6
            header = header_message(Header(stamp // 10**9, stamp % 10**9, "front"), library)
            message = library.make(kind, header=header, format="jpeg", data=np.frombuffer(data, np.uint8))
            writer.write(connection, stamp + 5 * 10**6, encode(message))


def read_detections(path, topic):
    from rosbags.highlevel import AnyReader

    with AnyReader([path]) as reader:
        wanted = [connection for connection in reader.connections if connection.topic == topic]
        return [reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(wanted)]


@pytest.mark.slow
def test_what_the_bag_holds_is_what_validation_sees_and_takes_a_fraction_of_the_drive(data_root, tmp_path):
    bundle = make_bundle(data_root / "models" / "yolox_nano.onnx", tmp_path / "bundle")
    files = film(data_root / "video" / "intel_car-detection.mp4", 100)
    write_drive(tmp_path / "drive", files, every_ms=100)
    options = ["--allow-unsigned", "--every", "--quiet", "--json", tmp_path / "facts.json", "--out", tmp_path / "seen"]
    begun = time.process_time()
    code, said = command(bundle, tmp_path / "drive", *options)
    processor_s = time.process_time() - begun
    assert code == 0, said

    session, manifest = load_bundle(bundle, Trust(allow_unsigned=True))
    samples = [Sample(str(i), decode_image_bytes(data, "", "")) for i, data in enumerate(files)]
    expected = [found for _, found in predict(session, samples, manifest.preprocess, manifest.task)]
    session.close()
    boxes = 0
    found = read_detections(tmp_path / "seen", "/avcompress/front_image_raw_compressed/detections")
    assert len(found) == len(expected) == 100
    for message, prediction in zip(found, expected, strict=True):
        believed = prediction.scores >= 0.3
        boxes += int(believed.sum())
        scores = [one.results[0].hypothesis.score for one in message.detections]
        np.testing.assert_array_equal(np.float32(scores), prediction.scores[believed])
        low = [
            (o.bbox.center.position.x - o.bbox.size_x / 2, o.bbox.center.position.y - o.bbox.size_y / 2)
            for o in message.detections
        ]
        np.testing.assert_allclose(np.reshape(low, (-1, 2)), prediction.xyxy[believed, :2], atol=1e-3)
    assert boxes > 20

    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["cameras"]["front_image_raw_compressed"]["published"] == 100
    assert set(facts["latency"]) == {"waiting", "decode", "preprocess", "inference", "postprocess", "total"}
    assert facts["recorded_s"] == pytest.approx(9.9)
    # Of the processor: a busy machine takes longer, and says nothing of us.
    assert processor_s < facts["recorded_s"] / 1.5


def test_a_camera_that_is_no_name_and_topic_is_refused(tmp_path):
    from avcompress.spec import RecipeError

    for camera in ("front", "front=image", "2=/x"):
        with pytest.raises(RecipeError, match="expected NAME=/TOPIC"):
            command(tmp_path, tmp_path, "--out", tmp_path / "o", "--camera", camera)
    with pytest.raises(RecipeError, match="got one twice"):
        command(tmp_path, tmp_path, "--out", tmp_path / "o", "--camera", "a=/x", "--camera", "b=/x")


def test_a_camera_s_name_has_the_letters_of_a_topic(tmp_path):
    from avcompress.spec import RecipeError

    with pytest.raises(RecipeError, match="expected NAME=/TOPIC"):
        command(tmp_path, tmp_path, "--out", tmp_path / "o", "--camera", "frönt=/x")


def test_topics_that_would_give_one_name_to_two_cameras_are_refused(tmp_path):
    from avcompress.cli.cameras import named_after
    from avcompress.spec import RecipeError

    assert named_after(["/front/image", "/2/x"]) == {"front_image": "/front/image", "camera_2_x": "/2/x"}
    drive = tmp_path / "drive"
    write_drive(drive, [], 100, topics=("/front/image", "/front_image"))
    with pytest.raises(RecipeError, match="got /front/image and /front_image, both front_image"):
        command(tmp_path, drive, "--out", tmp_path / "o")


def test_a_deadline_that_is_no_number_is_one_line(tmp_path):
    from avcompress.spec import RecipeError

    with pytest.raises(RecipeError, match="deadline_ms: expected a finite number, got inf; mend it"):
        command(tmp_path, tmp_path, "--out", tmp_path / "o", "--camera", "a=/x", "--deadline-ms", "inf")


@pytest.mark.parametrize("name", ["a b", "a/b", "", "7", "frönt"])
def test_what_is_no_name_of_a_node_is_refused_as_serve_does(tmp_path, name):
    from avcompress.spec import RecipeError

    with pytest.raises(RecipeError, match=r"^--node: expected a name of letters, digits and underscores, such as"):
        command(tmp_path, tmp_path, "--out", tmp_path / "o", "--camera", "a=/x", "--node", name)


def test_percentiles_that_take_more_images_are_a_dash_with_a_note(capsys):
    from rich.console import Console

    from avcompress.cli.replay import _show
    from ros_nodes.bag.replay import Replayed
    from validation.latency.values import Latency

    def shown(total, published):
        latencies = {"inference": Latency((1.0,) * published), "total": Latency((2.0,) * total)}
        _show(Console(width=120), Replayed({}, latencies, "e", 10, 1, 1), tmp := Path("seen"))
        out = capsys.readouterr().out
        assert f"bag: {tmp}" in out
        assert "nan" not in out
        return [line.split() for line in out.splitlines() if line.startswith(("inference", "total", "note"))]

    inference, total, note = shown(40, 0)
    assert (inference, total) == (["inference", "-", "-", "-", "-"], ["total", "2.00", "2.00", "-", "2.00"])
    assert " ".join(note) == "note: -: too few images: p50 takes 1, p90 takes 10, p99 takes 100"
    assert shown(100, 100) == [["inference", *["1.00"] * 4], ["total", *["2.00"] * 4]]


def test_what_is_no_bag_is_one_line(tmp_path):
    from avcompress.spec import DataError

    with pytest.raises(DataError, match="expected a rosbag2"):
        command(tmp_path, tmp_path / "none", "--out", tmp_path / "o")
