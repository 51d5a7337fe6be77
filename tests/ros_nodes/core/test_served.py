import shutil

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avcompress.recipe import OrtEngine, Preprocess
from avcompress.spec import EngineError
from calibration.frame import Header, RawImage
from calibration.sample import Sample
from engines.bundle import Trust, sign_bundle
from engines.manifest import write_manifest
from engines.session import FakeSession
from ros_nodes.core.lifecycle import State
from ros_nodes.core.look import look
from ros_nodes.core.node import Node
from ros_nodes.core.served import load_served, serve, warm_up
from ros_nodes.core.settings import Settings
from validation.predict import predict

ENGINE = OrtEngine(backend="ort", threads=1)


@pytest.fixture(scope="module")
def key():
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="module")
def made(tmp_path_factory, key, brightest_bundle):
    folder = brightest_bundle(tmp_path_factory.mktemp("bundles") / "made", revision=4, batch=3)
    sign_bundle(folder, key)
    return folder


@pytest.fixture
def bundle(made, tmp_path):
    """A signed bundle that a test may change."""
    return shutil.copytree(made, tmp_path / "bundle")


@pytest.fixture
def trust(key):
    return Trust((key.public_key(),))


def photos(count):
    return [np.random.default_rng(i).integers(0, 256, (40 + i, 60, 3), np.uint8) for i in range(count)]


def test_several_images_give_together_what_each_gives_alone_and_what_validation_sees(made, trust):
    served = load_served(made, trust, batch=3, warmup=1)
    assert (served.capacity, served.name) == (3, "brightest revision 4, ort")
    images = photos(3)
    together = look(served, images, lambda: 0).predictions
    manifest = served.manifest
    alone = FakeSession(
        lambda inputs: {"logits": inputs["image"]}, {"image": (1, 3, 16, 24)}, ("logits",)
    )  # the same network for one image
    judged = predict(alone, [Sample("", i) for i in images], manifest.preprocess, manifest.task)
    for found, (_, expected), image in zip(together, judged, images, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.shape == image.shape[:2]
        np.testing.assert_array_equal(found, look(served, [image], lambda: 0).predictions[0])
    served.session.close()


def test_moments_come_from_the_clock_between_the_stages(made, trust):
    served = load_served(made, trust, batch=1, warmup=1)
    readings = iter([3, 5, 8])
    assert look(served, photos(1), lambda: next(readings)).ends == (3, 5, 8)
    served.session.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocess": Preprocess(size=(16, 16))}, r"expected an input of \(3, 3, 16, 16\)"),
        ({"classes": ("a", "b", "c", "d")}, "expected at least the 4 classes"),
        ({"outputs": ()}, "outputs: expected , as the manifest says, got logits; build it again"),
        ({"versions": {"onnxruntime": "0.1"}}, "built with onnxruntime 0.1"),
    ],
)
def test_an_engine_that_is_not_what_its_manifest_says_is_refused(bundle, key, trust, change, message):
    from engines.manifest import read_manifest

    write_manifest(bundle, read_manifest(bundle).model_copy(update=change))
    sign_bundle(bundle, key)
    with pytest.raises(EngineError, match=message):
        load_served(bundle, trust, batch=1, warmup=1)


def test_a_session_whose_bundle_is_refused_is_closed(made, trust, monkeypatch):
    from ros_nodes.core import served as module

    closed = []
    session = FakeSession(
        lambda _: {"logits": np.zeros((1, 2, 16, 24), np.float32)}, {"image": (1, 3, 16, 24)}, ("logits",)
    )
    monkeypatch.setattr(session, "close", lambda: closed.append(True))
    manifest = load_served(made, trust, batch=1, warmup=1).manifest
    monkeypatch.setattr(module, "load_bundle", lambda *_: (session, manifest))
    with pytest.raises(EngineError, match="expected at least the 3 classes"):
        load_served(made, trust, batch=1, warmup=1)
    assert closed == [True]


def test_warming_up_runs_every_batch_size_and_refuses_outputs_that_mix_images(made, trust):
    manifest = load_served(made, trust, batch=1, warmup=1).manifest
    sizes = []

    def run(inputs):
        sizes.append(len(inputs["image"]))
        return {"logits": np.zeros((min(sizes[-1], 2), 3, 16, 24), np.float32)}

    served = serve(FakeSession(run, {"image": (-1, 3, 16, 24)}, ("logits",)), manifest, 3)
    with pytest.raises(EngineError, match="expected outputs of 3 images, got others; export the network"):
        warm_up(served, 2)
    assert sizes == [1, 1, 2, 2, 3]


class Silent:
    """A port that only keeps results."""

    def __init__(self):
        self.published = []

    def publish(self, result):
        self.published.append(result)

    def subscribe(self, *_): ...
    def unsubscribe(self): ...
    def announce(self, *_): ...
    def follow_up(self, *_): ...
    def report(self, *_): ...
    def changed(self, *_): ...


@pytest.fixture
def public(key, tmp_path):
    path = tmp_path / "release.pem.pub"
    forms = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(*forms))
    return str(path)


def test_a_node_serves_a_real_bundle_from_the_configuration_on(bundle, public):
    port = Silent()
    node = Node(Settings(bundle=str(bundle), keys=(public,), cameras=("a", "b"), age_from="arrival"), port)
    for name in ("configure", "activate"):
        assert node.transition(name).outcome == "success"
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 200
    for camera in ("a", "b"):
        node.receive(camera, RawImage(Header(1, 2, camera), 20, 30, "rgb8", 90, red.ravel()))
    node.step()
    assert [(r.camera, r.prediction.shape, r.prediction.max()) for r in port.published] == [
        ("a", (20, 30), 0),
        ("b", (20, 30), 0),
    ]
    node.transition("shutdown")


@pytest.mark.parametrize("damage", ["unsigned", "altered", "other key", "earlier"])
def test_a_bundle_that_nobody_vouches_for_is_not_served_nor_swapped_in(made, bundle, public, damage):
    changed = {}
    match damage:
        case "unsigned":
            (bundle / "manifest.sig").unlink()
        case "altered":
            with (bundle / "engine" / "model.onnx").open("ab") as file:
                file.write(b"x")
        case "other key":
            sign_bundle(bundle, Ed25519PrivateKey.generate())
        case "earlier":
            changed = {"min_revision": 5}
    node = Node(Settings(bundle=str(bundle), keys=(public,), **changed), Silent())
    step = node.transition("configure")
    assert (step.state, step.outcome) == (State.UNCONFIGURED, "failure")
    assert str(bundle) in step.reason

    serving = Node(Settings(bundle=str(made), keys=(public,)), Silent())
    serving.transition("configure")
    if damage != "earlier":
        with pytest.raises(EngineError, match=str(bundle)):
            serving.swap(bundle)
        assert serving.snapshot().engines.swap.startswith(f"swap: refused: {bundle}")
    assert serving.transition("activate").outcome == "success"
    serving.transition("shutdown")
