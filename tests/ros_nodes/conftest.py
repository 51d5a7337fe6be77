"""A node on a clock that tests turn, with engines and a transport that do what tests say."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from avcompress.contract import Contract, LatencyTerm
from avcompress.recipe import Detection, OrtEngine, Preprocess, Segmentation, Task
from avcompress.spec import Array, EngineError
from calibration.frame import CompressedImage, Header, RawImage
from engines.manifest import Manifest, Tensor
from engines.session import FakeSession
from ros_nodes.core.clock import Clock
from ros_nodes.core.node import Node
from ros_nodes.core.served import Served, serve
from ros_nodes.core.settings import Settings

MS = 1_000_000
SIZE = (32, 64)
BOXES = 2  # of a stride-32 head on 32x64 pixels
CLASSES = ("car", "person")


class Turned:
    """A clock that only tests move; both of its clocks are one."""

    def __init__(self) -> None:
        self.now = 1_000 * MS
        self.clock = Clock(lambda: self.now, lambda: self.now)

    def pass_ms(self, ms: float) -> None:
        self.now += round(ms * MS)


DETECT = Detection(kind="detection", decode="yolov8", strides=(32,), score_threshold=0.01, deployed_threshold=0.3)
SEGMENT = Segmentation(kind="segmentation")


def manifest(engine):
    return Manifest(
        name=engine.name,
        revision=engine.revision,
        engine=OrtEngine(backend="ort"),
        versions={},
        inputs=(Tensor(name="image", shape=(engine.batch, 3, *SIZE)),),
        outputs=(Tensor(name=engine.output, shape=(engine.batch, 4 + len(engine.classes), BOXES)),),
        preprocess=Preprocess(size=SIZE, fit="stretch"),
        task=engine.task,
        classes=engine.classes,
        contract=Contract(latency=(LatencyTerm(deadline_ms=engine.deadline_ms, engine="trt"),)),
        onnx_sha256="0" * 64,
        recipe_sha256="0" * 64,
    )


def one_box(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """A car in the middle of every image, whose width says how bright the image is: (B, 6, 2)."""
    images = inputs["image"]
    out = np.zeros((len(images), 6, BOXES), np.float32)
    out[:, :4, 0] = [32, 16, 8, 8]
    out[:, 2, 0] = images.mean(axis=(1, 2, 3)) / 8
    out[:, 4, 0] = 0.9
    out[:, 5, 1] = 0.2  # a person below the deployed threshold
    return {"boxes": out}


def brightest(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """A segmenter whose class is the brightest of red, green and blue."""
    return {"logits": inputs["image"].copy()}


@dataclass
class Engine:
    """A bundle of a test, which may be opened several times; `run` may be changed at any time."""

    name: str = "tiny"
    revision: int = 1
    classes: tuple[str, ...] = CLASSES
    batch: int = -1
    deadline_ms: float = 10.0
    task: Task = DETECT
    output: str = "boxes"
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]] = one_box
    batches: list[int] = field(default_factory=list)
    sessions: list[bool] = field(default_factory=list)  # whether each is open
    misused: str = ""  # noted, not raised: a node lives on whatever an engine raises

    @property
    def is_open(self) -> bool:
        return any(self.sessions)

    def served(self, batch: int) -> Served:
        index = len(self.sessions)
        self.sessions.append(True)

        def run(inputs):
            if not self.sessions[index]:
                self.misused = "run after it was closed"
            self.batches.append(len(inputs["image"]))
            found = self.run(inputs)
            if not self.sessions[index]:
                self.misused = "closed while it ran"
            return found

        def close():
            self.sessions[index] = False

        session = FakeSession(run, {"image": (self.batch, 3, *SIZE)}, (self.output,))
        session.close = close  # type: ignore[method-assign]
        return serve(session, manifest(self), batch)


@dataclass
class Transport:
    """A port that keeps what it is told, or raises `broken`."""

    subscribed: bool = False
    deliver: Callable = None
    announced: list = field(default_factory=list)
    published: list = field(default_factory=list)
    reports: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    broken: Exception | None = None
    on_publish: Callable = lambda _: None
    on_follow_up: Callable = lambda *_: None

    def subscribe(self, _cameras, deliver):
        self.subscribed, self.deliver = True, deliver

    def unsubscribe(self):
        self.subscribed = False

    def announce(self, announcement):
        self.announced.append(announcement)

    def publish(self, result):
        self.on_publish(result)
        if self.broken:
            raise self.broken
        self.published.append(result)

    def follow_up(self, result, at_ns):
        self.on_follow_up(result, at_ns)

    def report(self, statuses):
        self.reports.append({status.name: status for status in statuses})

    def changed(self, step):
        self.steps.append(step)


class Bench:
    """A node with all around it that a test can turn."""

    def __init__(self, fallback=False, **settings):
        self.time, self.port = Turned(), Transport()
        self.engines = {"main": Engine(), "small": Engine("small")}
        self.settings = Settings(
            bundle="main",
            fallback="small" if fallback else None,
            allow_unsigned=True,
            **{"cameras": ("front",), "hang_ms": 500, **settings},
        )
        self.node = Node(self.settings, self.port, self.time.clock, self.load)

    def load(self, folder: Path, _trust, batch, _warmup) -> Served:
        engine = self.engines.get(str(folder))
        if engine is None:
            raise EngineError(f"{folder}: expected a bundle, got nothing; check the path")
        return engine.served(batch)

    def start(self):
        for name in ("configure", "activate"):
            step = self.node.transition(name)
            assert step.outcome == "success", step.reason
        return self

    def slow(self, ms, name="main", then=one_box):
        """Let an engine take so many milliseconds, the watchdog looking at every one of them."""

        def run(inputs):
            for _ in range(round(ms)):
                self.time.pass_ms(1)
                self.node.watch()
            return then(inputs)

        self.engines[name].run = run

    def send(self, camera="front", value=128, stamp_ns=None, height=48, width=96):
        stamp = self.time.now if stamp_ns is None else stamp_ns
        header = Header(stamp // 10**9, stamp % 10**9, f"{camera}_optical")
        data = np.full(height * width * 3, value, np.uint8)
        self.node.receive(camera, RawImage(header, height, width, "rgb8", width * 3, data))

    def send_broken(self, camera="front", encoding="bayer"):
        header = Header(self.time.now // 10**9, self.time.now % 10**9, camera)
        if encoding == "jpeg":  # found out when it is decoded
            frame = CompressedImage(header, "jpeg", np.arange(40, dtype=np.uint8))
        else:
            frame = RawImage(header, 4, 4, encoding, 12, np.zeros(48, np.uint8))
        self.node.receive(camera, frame)

    def serve(self, frames=1, gap_ms=1, camera="front"):
        """Send frames and serve each of them."""
        for _ in range(frames):
            self.send(camera)
            self.node.step()
            self.time.pass_ms(gap_ms)

    def status(self, name):
        self.node.report()
        return self.port.reports[-1][name]

    def dropped(self, camera="front"):
        return {reason: count for reason, count in self.node.counts[camera].dropped.items() if count}

    def is_exact(self):
        """received = published + dropped + what waits or is worked on, over all cameras."""
        return sum(counts.pending for counts in self.node.counts.values()) == self.node.pending


@pytest.fixture(scope="session")
def bench() -> type[Bench]:
    """Bench: a node with all around it that a test can turn."""
    return Bench


@pytest.fixture(scope="session")
def engine() -> type[Engine]:
    """Engine: an engine of a test."""
    return Engine


@pytest.fixture(scope="session")
def segmenter() -> Callable[[], Engine]:
    """An engine of a test that gives masks."""
    return lambda: Engine(classes=("red", "green", "blue"), task=SEGMENT, output="logits", run=brightest)


def _module(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def wire_rig():
    """wire_rig.py: cameras and listeners on the other side of the wire."""
    pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install avcompress[wire]")
    return _module("wire_rig")


@pytest.fixture(scope="session")
def rigs():
    """rigs.py: one way to run a node behind each adapter."""
    module = _module("rigs")
    module.load_wire_rig = lambda: _module("wire_rig")
    return module


@pytest.fixture(scope="session")
def world():
    """World: a managed node that spins, and a foreign one beside it; skipped without ROS 2."""
    pytest.importorskip("rclpy", reason="needs ROS 2 with rclpy")
    pytest.importorskip("vision_msgs.msg", reason="needs vision_msgs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ROS's own parser, on newer Pythons
        importlib.import_module("rosidl_generator_py")
    module = sys.modules["ros_world"] = _module("ros_world")
    return module.World
