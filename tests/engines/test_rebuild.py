import hashlib

import numpy as np
import pytest

from avcompress.rebuilding import rebuild_bundle
from avcompress.spec import EngineBuildError, EngineError, RecipeError
from engines import build
from engines.bundle import Trust, load_bundle, open_bundle, sign_bundle, verify_bundle
from engines.manifest import read_manifest, write_manifest

IMAGE = {"x": np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)}


@pytest.fixture
def trust(key):
    return Trust((key.public_key(),))


@pytest.fixture
def older(signed_bundle, key):
    """A signed bundle that another version of its runtime built."""

    def make(backend):
        folder = signed_bundle(backend)
        manifest = read_manifest(folder)
        write_manifest(folder, manifest.model_copy(update={"versions": dict.fromkeys(manifest.versions, "0.1")}))
        sign_bundle(folder, key)
        return folder

    return make


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_bundle_of_another_version_runs_after_it_was_rebuilt_and_signed_here(older, trust, key, tmp_path, backend):
    folder, out = older(backend), tmp_path / "new"
    with pytest.raises(EngineError, match=r"avcompress bundle rebuild"):
        load_bundle(folder, trust)

    rebuild_bundle(folder, trust, out)
    with pytest.raises(EngineError, match=r"expected the signature of a bundle, got none"):
        load_bundle(out, trust)
    sign_bundle(out, key)

    with open_bundle(out, trust) as session, open_bundle(out, trust) as again:
        np.testing.assert_array_equal(session.run(IMAGE)["y"], again.run(IMAGE)["y"])


def test_where_it_came_from_stays_and_what_was_measured_goes(older, trust, tmp_path):
    folder = older("ort")
    old = read_manifest(folder)
    new = rebuild_bundle(folder, trust, tmp_path / "new").manifest

    assert new.rebuilt_from == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert new.measured is None
    changed = {name for name in type(new).model_fields if getattr(new, name) != getattr(old, name)}
    assert changed <= {"versions", "platform", "system", "gpu", "measured", "rebuilt_from", "files"}
    assert new.files["model.onnx"] == old.files["model.onnx"]


@pytest.mark.rtx
def test_an_rtx_engine_is_rebuilt_to_the_same_bytes(signed_bundle, trust, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    folder = signed_bundle("trt_rtx")
    rebuild_bundle(folder, trust, tmp_path / "new")

    for name in ("engine/model.engine", "engine/layers.json", "model.onnx"):
        assert (tmp_path / "new" / name).read_bytes() == (folder / name).read_bytes()


def test_an_altered_network_is_not_built(older, trust, tmp_path):
    folder = older("ort")
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(EngineError, match=r"model.onnx: expected [0-9]+ bytes"):
        rebuild_bundle(folder, trust, tmp_path / "new")

    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, EngineBuildError("build", "refused")])
def test_a_rebuild_that_ends_early_leaves_nothing(older, trust, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    folder = older("ort")
    monkeypatch.setattr(build, "_build", fail)
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        rebuild_bundle(folder, trust, tmp_path / "new", tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["ort"]
    verify_bundle(folder, trust)


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_that_is_there_is_replaced(older, trust, tmp_path, there):
    out = tmp_path / "out"
    match there:
        case "file":
            out.touch()
        case "folder":
            (out / "photos").mkdir(parents=True)
        case "link":
            out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"--out: expected a new folder, got one that is there"):
        rebuild_bundle(older("ort"), trust, out)
