import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avcompress.spec import EngineError, MissingError, OutputError, RecipeError
from engines import build
from engines.bundle import Trust, load_bundle, open_bundle, sign_bundle, verify_bundle
from engines.manifest import read_manifest, write_manifest
from engines.signing import key_id

IMAGE = {"x": np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)}
UNSIGNED = Trust(allow_unsigned=True)


@pytest.fixture
def trust(key):
    return Trust((key.public_key(),))


def paths(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def refuses(folder, trust, message):
    """Both who verifies and who loads is refused, in one line."""
    for use in (verify_bundle, load_bundle):
        with pytest.raises(EngineError, match=message) as caught:
            use(folder, trust)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_signed_bundle_opens_and_computes_what_its_engine_does(signed_bundle, trust, backend):
    folder = signed_bundle(backend)
    engine = read_manifest(folder).engine

    with build.open_engine(folder / "engine", engine) as direct, open_bundle(folder, trust) as session:
        np.testing.assert_array_equal(session.run(IMAGE)["y"], direct.run(IMAGE)["y"])


def test_who_signed_and_what_is_said(signed_bundle, trust):
    folder = signed_bundle("ort")
    found = verify_bundle(folder, trust)

    assert found.signed_by == key_id(trust.keys[0])
    assert found.manifest == read_manifest(folder)
    assert load_bundle(folder, trust).manifest == found.manifest


# --- altered


def test_every_flipped_bit_is_caught_and_the_file_named(signed_bundle, trust):
    folder = signed_bundle("openvino")
    content = {path: path.read_bytes() for path in paths(folder)}
    assert {path.name for path in content} > {"manifest.json", "manifest.sig", "model.onnx", "model.xml", "model.bin"}
    rng, sizes = np.random.default_rng(0), [len(data) for data in content.values()]
    everywhere = rng.choice(len(sizes), 1000, p=np.divide(sizes, sum(sizes)))
    # ... and a hundred in each file, since the small ones are hardly met.
    for index in [*everywhere, *np.repeat(range(len(sizes)), 100)]:
        path = list(content)[index]
        data = bytearray(content[path])
        bit = int(rng.integers(8 * len(data)))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(EngineError, match=re.escape(path.name)):
            verify_bundle(folder, trust)
        path.write_bytes(content[path])
    verify_bundle(folder, trust)


def test_a_damaged_manifest_that_nobody_signed_is_one_line_or_still_a_manifest(signed_bundle):
    folder = signed_bundle("openvino")
    (folder / "manifest.sig").unlink()
    path = folder / "manifest.json"
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for bit in rng.integers(8 * len(whole), size=500):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            verify_bundle(folder, UNSIGNED)
        except EngineError as error:
            refused += 1
            assert "\n" not in str(error)
            assert str(error).startswith(str(folder))
    assert 250 < refused < 500


def test_every_truncated_file_is_named(signed_bundle, trust):
    folder = signed_bundle("openvino")
    for path in paths(folder):
        whole = path.read_bytes()
        for size in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            refuses(folder, trust, re.escape(path.name))
        path.write_bytes(whole)


def test_every_missing_file_is_named(signed_bundle, trust):
    folder = signed_bundle("openvino")
    for path in paths(folder):
        whole = path.read_bytes()
        path.unlink()
        refuses(folder, trust, f"{re.escape(str(path))}: expected .*got (No such file|none)")
        path.write_bytes(whole)


def test_two_swapped_files_are_named(signed_bundle, trust):
    folder = signed_bundle("openvino")
    (folder / "engine" / "model.xml").rename(folder / "x")
    (folder / "engine" / "model.bin").rename(folder / "engine" / "model.xml")
    (folder / "x").rename(folder / "engine" / "model.bin")

    refuses(folder, trust, "model.(xml|bin): expected [0-9]+ bytes, got")


def test_a_file_that_is_altered_in_place_of_equal_size_is_named(signed_bundle, trust):
    folder = signed_bundle("ort")
    network = onnx.load(folder / "engine" / "model.onnx")
    network.graph.node[0].name = network.graph.node[0].name[::-1]
    (folder / "engine" / "model.onnx").write_bytes(network.SerializeToString())

    refuses(folder, trust, "engine/model.onnx: expected sha256 .*the file was altered")


def test_a_manifest_of_another_signed_bundle_does_not_fit(signed_bundle, trust):
    folder, other = signed_bundle("ort"), signed_bundle("openvino")
    for name in ("manifest.json", "manifest.sig"):
        shutil.copyfile(other / name, folder / name)

    refuses(folder, trust, "a file that the manifest does not name|No such file")


def test_a_manifest_with_new_hashes_needs_a_new_signature(signed_bundle, trust):
    folder = signed_bundle("ort")
    (folder / "engine" / "model.onnx").write_bytes(b"code of somebody else")
    write_manifest(folder, read_manifest(folder, verify=False))

    refuses(folder, trust, "manifest.sig: expected the signature of the manifest.json beside it")


def test_a_bundle_without_its_network_is_no_bundle(signed_bundle, key, trust):
    folder = signed_bundle("ort")
    (folder / "model.onnx").unlink()
    write_manifest(folder, read_manifest(folder, verify=False))

    with pytest.raises(EngineError, match=r"expected a bundle with model.onnx, .*got none"):
        sign_bundle(folder, key)


# --- more than there should be


@pytest.mark.parametrize("name", ["extra", ".hidden", "engine/extra.so", "Model.onnx", "manifest.json.bak"])
def test_a_file_that_the_manifest_does_not_name_is_refused(signed_bundle, trust, name):
    folder = signed_bundle("openvino")
    (folder / name).touch()

    refuses(folder, trust, f"{re.escape(name)}: expected only the bundle's own files, got a file")


def test_a_folder_that_the_manifest_does_not_name_is_refused(signed_bundle, trust):
    folder = signed_bundle("ort")
    (folder / "engine" / "deep" / "er").mkdir(parents=True)

    refuses(folder, trust, "engine/deep: expected only the bundle's own files, got a folder")


@pytest.mark.parametrize("name", ["engine/model.onnx", "model.onnx", "manifest.json", "manifest.sig", "engine"])
def test_a_link_is_refused_though_its_content_is_right(signed_bundle, trust, tmp_path, name):
    folder = signed_bundle("ort")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")

    refuses(folder, trust, f"{re.escape(name)}: expected .*got a symbolic link")


@pytest.mark.parametrize("name", ["engine/model.onnx", "manifest.json", "manifest.sig", "engine/extra"])
def test_a_pipe_keeps_nobody_waiting(signed_bundle, trust, name):
    folder = signed_bundle("ort")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    refuses(folder, trust, f"{re.escape(name)}: expected .*a pipe or a device")


def test_a_folder_in_a_file_s_place_is_refused(signed_bundle, trust):
    folder = signed_bundle("ort")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()

    refuses(folder, trust, "model.onnx: expected only the bundle's own files, got a folder")


@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_what_is_no_folder_is_one_line(tmp_path, trust, what):
    if what == "a file":
        (tmp_path / "x").touch()
    refuses(tmp_path / "x", trust, "expected a manifest, got (No such file|Not a directory)")


def test_a_link_to_the_whole_bundle_is_fine(signed_bundle, trust, tmp_path):
    (tmp_path / "current").symlink_to(signed_bundle("ort"))

    verify_bundle(tmp_path / "current", trust)


# --- whom to trust


def test_a_bundle_that_nobody_signed_is_refused_unless_allowed(signed_bundle, trust):
    folder = signed_bundle("ort")
    (folder / "manifest.sig").unlink()

    refuses(folder, trust, "manifest.sig: expected the signature of a bundle, got none: an engine is code")
    for allowed in (UNSIGNED, Trust(trust.keys, allow_unsigned=True)):
        assert verify_bundle(folder, allowed).signed_by is None
        load_bundle(folder, allowed).session.close()


def test_a_bundle_that_a_stranger_signed_is_refused_unless_allowed(signed_bundle):
    folder = signed_bundle("ort")
    stranger = Trust((Ed25519PrivateKey.generate().public_key(),))

    refuses(folder, stranger, "manifest.sig: expected a signature by a key that you trust")
    assert verify_bundle(folder, UNSIGNED).signed_by is None
    assert verify_bundle(folder, Trust(stranger.keys, allow_unsigned=True)).signed_by is None


def test_allowed_or_not_a_file_is_what_the_manifest_says(signed_bundle, trust):
    folder = signed_bundle("ort")
    (folder / "engine" / "model.onnx").write_bytes(b"x")

    for allowed in (UNSIGNED, Trust(trust.keys, allow_unsigned=True)):
        refuses(folder, allowed, "engine/model.onnx: expected [0-9]+ bytes")


def test_a_false_signature_by_a_known_key_is_refused_whatever_is_allowed(signed_bundle, trust):
    folder = signed_bundle("ort")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"tiny"', '"liar"'))

    refuses(folder, Trust(trust.keys, allow_unsigned=True), "one of the two was altered")


def test_without_a_key_nothing_can_be_verified(signed_bundle):
    with pytest.raises(RecipeError, match=r"expected a public key to verify by, got none"):
        verify_bundle(signed_bundle("ort"), Trust())


def test_an_earlier_release_and_another_recipe_s_bundle_are_refused(signed_bundle, trust):
    folder = signed_bundle("ort")
    verify_bundle(folder, Trust(trust.keys, name="tiny", min_revision=3))

    refuses(folder, Trust(trust.keys, min_revision=4), "expected revision 4 or later, got 3")
    refuses(folder, Trust(trust.keys, name="other"), "expected the bundle of 'other', got that of 'tiny'")


def test_an_altered_bundle_is_not_signed(whole_bundle, key, tmp_path):
    shutil.copytree(whole_bundle("ort"), tmp_path / "b")
    (tmp_path / "b" / "engine" / "model.onnx").write_bytes(b"x")

    with pytest.raises(EngineError, match=r"engine/model.onnx"):
        sign_bundle(tmp_path / "b", key)
    assert not (tmp_path / "b" / "manifest.sig").exists()


def test_signing_again_replaces_the_signature(signed_bundle):
    folder, key = signed_bundle("ort"), Ed25519PrivateKey.generate()
    sign_bundle(folder, key)

    assert verify_bundle(folder, Trust((key.public_key(),))).signed_by == key_id(key.public_key())


# --- what is verified is what is loaded


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_file_that_is_swapped_after_it_was_verified_is_not_loaded(signed_bundle, trust, monkeypatch, backend):
    folder = signed_bundle(backend)
    with open_bundle(folder, trust) as session:
        honest = session.run(IMAGE)["y"]
    real = build.open_engine

    def swap_and_open(copy, engine):
        for path in paths(folder):
            path.write_bytes(b"code of somebody else")
        return real(copy, engine)

    monkeypatch.setattr(build, "open_engine", swap_and_open)
    with open_bundle(folder, trust) as session:
        np.testing.assert_array_equal(session.run(IMAGE)["y"], honest)


def test_a_file_that_is_swapped_while_a_session_runs_changes_nothing(signed_bundle, trust):
    folder = signed_bundle("openvino")  # OpenVINO maps its weights instead of reading them
    with open_bundle(folder, trust) as session:
        honest = session.run(IMAGE)["y"]
        with (folder / "engine" / "model.bin").open("r+b") as file:
            file.write(bytes(1000))
        np.testing.assert_array_equal(session.run(IMAGE)["y"], honest)


def test_a_file_that_grows_while_it_is_read_ends(signed_bundle, trust, monkeypatch):
    folder = signed_bundle("ort")
    path = folder / "engine" / "model.onnx"
    real, asked = os.fstat, []

    def stat_and_grow(descriptor):
        found = real(descriptor)
        asked.append(found.st_ino)
        if asked.count(path.stat().st_ino) == 2:  # it is a file, it has the right size, it will be read
            with path.open("ab") as file:
                file.write(bytes(1 << 22))
        return found

    monkeypatch.setattr(os, "fstat", stat_and_grow)
    with pytest.raises(EngineError, match=r"engine/model.onnx: expected sha256"):
        verify_bundle(folder, trust)


def test_nothing_is_left_in_the_scratch_folder(signed_bundle, trust, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = signed_bundle("openvino")
    load_bundle(folder, trust, scratch).session.close()
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(EngineError):
        load_bundle(folder, trust, scratch)

    assert list(scratch.iterdir()) == []


def test_the_scratch_copy_is_nobody_else_s(signed_bundle, trust, tmp_path, monkeypatch):
    modes = []
    real = build.open_engine

    def look_and_open(copy, engine):
        modes.append((copy.parent.parent, copy.parent.stat().st_mode & 0o777, sorted(p.name for p in paths(copy))))
        return real(copy, engine)

    monkeypatch.setattr(build, "open_engine", look_and_open)
    load_bundle(signed_bundle("ort"), trust, tmp_path).session.close()

    assert modes == [(tmp_path, 0o700, ["model.onnx"])]


# --- the machine


def test_a_bundle_of_another_version_is_refused_with_what_to_do(signed_bundle, key, trust):
    folder = signed_bundle("ort")
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"versions": {**manifest.versions, "onnxruntime": "1.0"}}))
    sign_bundle(folder, key)

    verify_bundle(folder, trust)  # the bundle is whole
    with pytest.raises(EngineError, match=r"built with onnxruntime 1.0, this machine has .*avcompress bundle rebuild"):
        load_bundle(folder, trust)


@pytest.mark.rtx
def test_an_rtx_bundle_is_verified_here_and_loaded_elsewhere(signed_bundle, trust):
    pytest.importorskip("tensorrt_rtx")
    folder = signed_bundle("trt_rtx")

    verify_bundle(folder, trust)
    with pytest.raises(MissingError, match=re.escape(f"{folder}/engine/model.engine: expected an RTX GPU")):
        load_bundle(folder, trust)


def test_an_engine_that_does_not_load_is_named_by_the_bundle_s_own_path(signed_bundle, key, trust):
    folder = signed_bundle("ort")
    (folder / "engine" / "model.onnx").write_bytes(b"x")
    write_manifest(folder, read_manifest(folder, verify=False))
    sign_bundle(folder, key)

    with pytest.raises(EngineError, match=re.escape(f"{folder}/engine/model.onnx: expected a network")) as caught:
        load_bundle(folder, trust)
    assert tempfile.gettempdir() + "/avcompress-" not in str(caught.value)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_scratch_folder_that_takes_nothing_is_one_line(signed_bundle, trust, monkeypatch, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    folder = signed_bundle("ort")
    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    with pytest.raises(OutputError, match=f"got {os.strerror(code)}"):
        load_bundle(folder, trust)


def test_a_full_scratch_disk_is_one_line(signed_bundle, trust, tiny_disk):
    folder = signed_bundle("ort")
    with pytest.raises(OutputError, match=r"No space left on device"):
        load_bundle(folder, trust, tiny_disk)
    assert list(tiny_disk.iterdir()) == []


def test_a_read_only_bundle_is_verified_and_loaded(signed_bundle, trust):
    folder = signed_bundle("ort")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    load_bundle(folder, trust).session.close()

    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_failed_signing_leaves_the_old_signature(signed_bundle, key, monkeypatch):
    folder = signed_bundle("ort")
    before = (folder / "manifest.sig").read_bytes()

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sign_bundle(folder, Ed25519PrivateKey.generate())

    assert (folder / "manifest.sig").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["engine", "manifest.json", "manifest.sig", "model.onnx"]


def test_a_vehicle_that_verifies_loads_neither_onnx_nor_a_runtime(signed_bundle, key):
    folder = signed_bundle("ort")
    public = key.public_key().public_bytes_raw().hex()
    code = (
        "import sys; from pathlib import Path; from engines.bundle import Trust, verify_bundle\n"
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as Key\n"
        f"verify_bundle(Path({str(folder)!r}), Trust((Key.from_public_bytes(bytes.fromhex({public!r})),)))\n"
        "print({'onnx', 'torch', 'onnxruntime', 'openvino'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
