from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper

from avcompress.contract import Contract, LatencyTerm
from avcompress.files import sha256_file
from avcompress.recipe import OrtEngine, Preprocess, Segmentation
from engines.build import build_engine
from engines.bundle import sign_bundle
from engines.manifest import Manifest, network_tensors, write_manifest


@pytest.fixture
def ros(world, bench):
    """Start a world around engines of a test."""
    from contextlib import ExitStack

    with ExitStack() as worlds:

        def start(engines=None, **parameters):
            b = bench()
            b.engines |= engines or {}
            given = {"bundle": "main", "allow_unsigned": True, "cameras": ["front"], "age_from": "arrival"}
            made = worlds.enter_context(world(b.load, **{**given, **parameters}))
            made.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
            made.bench = b
            return made

        yield start


@dataclass(frozen=True)
class Signed:
    """A bundle on the disk.

    Attributes:
        key: the file of the public key that has signed it.
    """

    folder: Path
    key: Path


@pytest.fixture
def signed_bundle(tmp_path):
    """A segmenter whose class is the brightest of red, green and blue, for one image of 16x24."""
    key, folder = Ed25519PrivateKey.generate(), tmp_path / "bundle"
    folder.mkdir()
    shape = (1, 3, 16, 24)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"])], "g", values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    engine = OrtEngine(backend="ort", threads=1)
    built = build_engine(folder / "model.onnx", folder / "engine", engine)
    inputs, outputs = network_tensors(folder / "model.onnx")
    manifest = Manifest(
        name="brightest",
        revision=4,
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
    sign_bundle(folder, key)
    public = tmp_path / "release.pem.pub"
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(*form))
    return Signed(folder, public)
