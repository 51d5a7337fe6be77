"""An engine that does what a benchmark of the node wants, and images for it; no network is computed."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from avcompress.contract import Contract, LatencyTerm
from avcompress.recipe import Detection, OrtEngine, Preprocess, Segmentation
from avcompress.spec import Array
from calibration.frame import Header, RawImage
from engines.manifest import Manifest, Tensor
from engines.session import FakeSession
from ros_nodes.bag.library import RosbagsLibrary, encode
from ros_nodes.core.served import Served, serve
from ros_nodes.messages.outgoing import frame_message

SIZE, BOXES = (32, 64), 2
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def boxes(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """One car in the middle of every image."""
    out = np.zeros((len(inputs["image"]), 6, BOXES), np.float32)
    out[:, :5, 0] = [32, 16, 8, 8, 0.9]
    return {"out": out}


def masks(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """The brightest of three channels."""
    return {"out": inputs["image"].copy()}


def sleeping(run: Run, seconds: float) -> Run:
    """An engine that takes so long."""

    def slow(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        time.sleep(seconds)
        return run(inputs)

    return slow


def planted(run: Run, kind: str = "detection", name: str = "planted") -> Served:
    """What load_served would give for such an engine."""
    is_boxes = kind == "detection"
    classes = ("car", "person") if is_boxes else ("red", "green", "blue")
    task = (
        Detection(kind="detection", decode="yolov8", strides=(32,), score_threshold=0.01, deployed_threshold=0.3)
        if is_boxes
        else Segmentation(kind="segmentation")
    )
    manifest = Manifest(
        name=name,
        engine=OrtEngine(backend="ort"),
        versions={},
        inputs=(Tensor(name="image", shape=(1, 3, *SIZE)),),
        outputs=(Tensor(name="out", shape=(1, 6, BOXES) if is_boxes else (1, 3, *SIZE)),),
        preprocess=Preprocess(size=SIZE, fit="stretch"),
        task=task,
        classes=classes,
        contract=Contract(latency=(LatencyTerm(deadline_ms=1000, engine="ort"),)),
        onnx_sha256="0" * 64,
        recipe_sha256="0" * 64,
    )
    return serve(FakeSession(run, {"image": (1, 3, *SIZE)}, ("out",)), manifest, 1)


def image_bytes(stamp_ns: int, height: int, width: int, frame_id: str, encoding: str = "rgb8", rows: int = 0) -> bytes:
    """A grey sensor_msgs/Image, encoded; with other `rows` than its height it is damaged."""
    header = Header(stamp_ns // 10**9, stamp_ns % 10**9, frame_id)
    pixels = np.full((rows or height) * width * 3, 99, np.uint8)
    return encode(frame_message(RawImage(header, height, width, encoding, width * 3, pixels), RosbagsLibrary()))


def resident_mib() -> float:
    """Memory of this process."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024
