"""How much faster than it was driven a drive is replayed: YOLOX-nano on a bag of real images.

    python benchmarks/replay_speed.py --data-root DATA [--seconds 60] [--rate 10] [--threads 2] [--bundle BUNDLE]

The bag (MCAP, JPEG as cameras compress it) is made of the frames of `video/intel_car-detection.mp4`, forwards and
backwards in turn, at `--rate`. The bundle is the float YOLOX-nano on OpenVINO, its focus layer rewritten as a
convolution, which is exact, with the figures of 128 COCO images for the drift watch, unless one is given. Two replays:
as a vehicle that is as fast as this machine would drive it, and with every image served. `of the processor` is what all
threads took together, which a busy machine changes less. Ends with 1 where either replay is slower than `--least` times
as fast as the drive.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ros_nodes.core.memory import keep_freed_memory

TOPIC = "/front/image_raw/compressed"
START_NS = 1_700_000_000_000_000_000


def main() -> int:
    """Make the bag and the bundle, replay twice, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("AVCOMPRESS_DATA"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--least", type=float, default=5.0)
    parser.add_argument("--bundle", type=Path, help="another bundle, unsigned")
    arguments = parser.parse_args()
    if arguments.data_root is None:
        parser.error("give --data-root, or set AVCOMPRESS_DATA")
    keep_freed_memory()  # as `avcompress replay` does
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        film = arguments.data_root / "video" / "intel_car-detection.mp4"
        count = round(arguments.seconds * arguments.rate)
        write_drive(folder / "drive", islice(there_and_back(film), count), arguments.rate)
        bundle = arguments.bundle or make_bundle(arguments.data_root, folder / "bundle", arguments.threads)
        print(
            "| replay | drive, s | replay, s | of the processor, s | times as fast | published | ms: p50, p99 | drift |"
        )
        print("|---|---|---|---|---|---|---|---|")
        speeds = [replayed(folder, bundle, free) for free in (False, True)]
    kept = min(speeds) >= arguments.least
    print(f"\n{count} images, {arguments.threads} threads; at least {arguments.least:g} times as fast: {kept}")
    return 0 if kept else 1


def there_and_back(film: Path) -> Iterator[bytes]:
    """The frames of a video as JPEG files, forwards, then backwards, without end."""
    video, files = cv2.VideoCapture(str(film)), []
    while (read := video.read())[0]:
        files.append(cv2.imencode(".jpg", read[1])[1].tobytes())
    return itertools.cycle([*files, *files[-2:0:-1]])


def write_drive(path: Path, files: Iterable[bytes], rate: float) -> None:
    """JPEG files as a bag of one camera."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    from calibration.frame import Header
    from ros_nodes.bag.library import RosbagsLibrary, encode, typestore
    from ros_nodes.messages.outgoing import header_message

    library, kind = RosbagsLibrary(), "sensor_msgs/msg/CompressedImage"
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(TOPIC, kind, typestore=typestore())
        for index, data in enumerate(files):
            stamp = START_NS + round(index * 1e9 / rate)
            header = header_message(Header(stamp // 10**9, stamp % 10**9, "front"), library)
            message = library.make(kind, header=header, format="jpeg", data=np.frombuffer(data, np.uint8))
            writer.write(connection, stamp, encode(message))


def make_bundle(data_root: Path, folder: Path, threads: int) -> Path:
    """YOLOX-nano, rewritten exactly, as a bundle for OpenVINO that knows what COCO's images look like."""
    import onnx

    from avcompress.contract import Contract, LatencyTerm
    from avcompress.files import sha256_file
    from avcompress.quant.observe import observe
    from avcompress.recipe import CocoSource, Detection, OpenVinoEngine, Preprocess
    from avcompress.rewrite.strided_conv import strided_conv
    from avcompress.running.provenance import bands
    from calibration.batches import Batches
    from calibration.source import open_source
    from engines.build import build_engine
    from engines.manifest import Manifest, network_tensors, write_manifest
    from engines.onnx_load import load_onnx

    network = folder / "model.onnx"
    preprocess = Preprocess(size=(416, 416), anchor="top_left", channels="bgr")
    labels = "coco_mini/annotations/instances_train2017.json"
    settings = CocoSource(format="coco", images="coco_mini/train2017", labels=labels, limit=128)
    source = open_source(settings, data_root)
    folder.mkdir()
    float_network = load_onnx(data_root / "models" / "yolox_nano.onnx", preprocess.size)
    # As the stage `rewrite` of recipes does.
    onnx.save(strided_conv(float_network, lambda _: True).network, network)
    engine = OpenVinoEngine(backend="openvino", threads=threads)
    built = build_engine(network, folder / "engine", engine)
    inputs, outputs = network_tensors(network)
    statistics = observe(onnx.load(network), (), Batches(source, preprocess, inputs[0].name))
    write_manifest(
        folder,
        Manifest(
            name="yolox_nano",
            engine=engine,
            versions=dict(built.versions),
            inputs=inputs,
            outputs=outputs,
            preprocess=preprocess,
            task=Detection(kind="detection", decode="yolox"),
            classes=source.classes,
            contract=Contract(latency=(LatencyTerm(deadline_ms=100),)),
            familiar=bands(statistics.figures),
            onnx_sha256=sha256_file(network),
            recipe_sha256="0" * 64,
        ),
    )
    return folder


def replayed(folder: Path, bundle: Path, free: bool) -> float:
    """One replay as a row of the table; returns how many times as fast as the drive it was."""
    from ros_nodes.bag.replay import Replay, replay
    from ros_nodes.core.settings import Settings

    settings = Settings(bundle=str(bundle), allow_unsigned=True, cameras=("front",), age_from="arrival")
    begun = time.process_time()
    found = replay(folder / "drive", folder / f"seen-{free}", Replay(settings, {"front": TOPIC}, free=free))
    processor_s = time.process_time() - begun
    total, speed = found.latencies["total"], found.recorded_s / found.seconds
    name = "every image" if free else "as driven"
    counts = found.counts["front"]
    times = f"{total.percentile('p50'):.1f}, {total.percentile('p99'):.1f}"
    drift = last_drift(folder / f"seen-{free}")
    took = f"{found.seconds:.1f} | {processor_s:.1f}"
    served = f"{counts.published} of {counts.received}"
    print(f"| {name} | {found.recorded_s:.1f} | {took} | {speed:.1f} | {served} | {times} | {drift} |", flush=True)
    return speed


def last_drift(bag: Path) -> str:
    """What the last diagnostics say of drift."""
    from rosbags.highlevel import AnyReader

    said = ""
    with AnyReader([bag]) as reader:
        wanted = [each for each in reader.connections if each.topic == "/diagnostics"]
        for connection, _, raw in reader.messages(wanted):
            message = reader.deserialize(raw, connection.msgtype)
            said = next(status.message for status in message.status if status.name.endswith("drift"))
    return said


if __name__ == "__main__":
    sys.exit(main())
