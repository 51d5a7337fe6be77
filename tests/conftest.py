"""Fixtures that several packages share."""

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Examples have no time limit: it would fail tests where others use the machine, too.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def exported_root() -> Iterator[str | None]:
    """What AVCOMPRESS_DATA says: nothing to any test, or commands would not start from their recipe's own folder."""
    exported = os.environ.get("AVCOMPRESS_DATA")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AVCOMPRESS_DATA", raising=False)
        yield exported


@pytest.fixture(scope="session")
def data_root(exported_root: str | None) -> Path:
    """The real images, labels and models; the test is skipped where they are missing."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    root = Path(exported_root or default)
    if not (root / "coco_mini").is_dir():
        pytest.skip(f"real data: no coco_mini under {root}; set AVCOMPRESS_DATA")
    return root


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; the test is skipped without the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def brightest_bundle() -> Callable[..., Path]:
    """Makes the bundle, which nobody has signed, of a segmenter whose class is the brightest of red, green and blue."""
    return _brightest_bundle


def _brightest_bundle(folder: Path, revision: int = 1, batch: int = 1) -> Path:
    """For `batch` images of 16x24 at once, on ONNX Runtime."""
    # Not before a test asks for it: most need none of this.
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from avcompress.contract import Contract, LatencyTerm
    from avcompress.files import sha256_file
    from avcompress.recipe import OrtEngine, Preprocess, Segmentation
    from engines.build import build_engine
    from engines.manifest import Manifest, network_tensors, write_manifest

    folder.mkdir()
    shape, engine = (batch, 3, 16, 24), OrtEngine(backend="ort", threads=1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["logits"], name="c")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    built = build_engine(folder / "model.onnx", folder / "engine", engine)
    inputs, outputs = network_tensors(folder / "model.onnx")
    manifest = Manifest(
        name="brightest",
        revision=revision,
        engine=engine,
        versions=dict(built.versions),
        inputs=inputs,
        outputs=outputs,
        preprocess=Preprocess(size=(16, 24), scale=1 / 255),
        task=Segmentation(kind="segmentation"),
        classes=("red", "green", "blue"),
        contract=Contract(latency=(LatencyTerm(deadline_ms=1000, engine="ort"),)),
        onnx_sha256=sha256_file(folder / "model.onnx"),
        recipe_sha256="0" * 64,
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="session")
def write_drive() -> Callable[..., Path]:
    """Writes frames, (topic, seconds, (H, W, 3) RGB or the bytes of a file), as a bag; returns its folder."""
    pytest.importorskip("rosbags")
    return _write_drive


def _write_drive(
    path: Path, frames: Iterable[tuple[str, float, Any]], kind: str = "png", storage: str = "mcap"
) -> Path:
    """`kind`: raw, or of files. Each is stamped 5 ms before it is recorded; the first second is 1,700,000,000."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store, connections = get_typestore(Stores.ROS2_JAZZY), {}
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with Writer(path, version=8, storage_plugin=plugin) as writer:
        for topic, seconds, image in frames:
            at = 1_700_000_000_000_000_000 + round(seconds * 1e9)
            time = store.types["builtin_interfaces/msg/Time"](*divmod(at - 5_000_000, 10**9))
            message = _image_message(store.types, store.types["std_msgs/msg/Header"](time, "front"), image, kind)
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
            writer.write(connections[topic], at, store.serialize_cdr(message, message.__msgtype__))
    return path


def _image_message(types: Any, header: Any, image: Any, kind: str) -> Any:
    import cv2
    import numpy as np

    if kind == "raw":
        height, width = image.shape[:2]
        pixels = np.ascontiguousarray(image).ravel()
        return types["sensor_msgs/msg/Image"](header, height, width, "rgb8", 0, width * 3, pixels)
    data = image if isinstance(image, bytes) else cv2.imencode(f".{kind}", image[:, :, ::-1])[1].tobytes()
    return types["sensor_msgs/msg/CompressedImage"](header, kind, np.frombuffer(data, np.uint8))
