import shutil
import zipfile

import numpy as np
import pytest

from avcompress.spec import EngineError, OutputError, RecipeError
from engines.bundle import Trust, verify_bundle
from engines.bundle_pack import pack_bundle, unpack_bundle


@pytest.fixture
def packed(signed_bundle, tmp_path):
    pack_bundle(signed_bundle("openvino"), tmp_path / "b.zip")
    return tmp_path / "b.zip"


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents:
            archive.writestr(name, data)


def test_a_packed_bundle_unpacks_to_the_same_files(packed, tmp_path, key):
    unpack_bundle(packed, tmp_path / "new")

    verify_bundle(tmp_path / "new", Trust((key.public_key(),)))
    for path in (tmp_path / "openvino").rglob("*"):
        if path.is_file():
            assert (tmp_path / "new" / path.relative_to(tmp_path / "openvino")).read_bytes() == path.read_bytes()


def test_equal_bundles_pack_to_equal_bytes(packed, tmp_path):
    unpack_bundle(packed, tmp_path / "new")
    pack_bundle(tmp_path / "new", tmp_path / "again.zip")

    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_what_is_not_the_bundle_s_own_is_not_packed(signed_bundle, tmp_path):
    folder = signed_bundle("ort")
    (folder / "secret").touch()
    pack_bundle(folder, tmp_path / "b.zip")

    assert set(members(tmp_path / "b.zip")) == {"manifest.json", "manifest.sig", "model.onnx", "engine/model.onnx"}


def test_an_altered_bundle_is_not_packed(signed_bundle, tmp_path):
    folder = signed_bundle("ort")
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(EngineError, match=r"model.onnx"):
        pack_bundle(folder, tmp_path / "b.zip")

    assert not (tmp_path / "b.zip").exists()


def test_nothing_that_is_there_is_replaced(packed, tmp_path):
    with pytest.raises(RecipeError, match=r"expected a new file"):
        pack_bundle(tmp_path / "openvino", packed)
    with pytest.raises(RecipeError, match=r"expected a new folder"):
        unpack_bundle(packed, tmp_path / "openvino")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "../evil: expected no such file, got one of 4 bytes"),
        ("/etc/evil", "evil: expected no such file"),
        ("engine/../../evil", "evil: expected no such file"),
        ("extra", "extra: expected no such file"),
        ("engine/", "engine/: expected no such file"),
    ],
)
def test_a_member_that_the_manifest_does_not_name_is_refused(packed, tmp_path, name, message):
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, b"evil" if not name.endswith("/") else b"")
    before = sorted(tmp_path.parent.iterdir())

    with pytest.raises(EngineError, match=message):
        unpack_bundle(packed, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert sorted(tmp_path.parent.iterdir()) == before


def test_a_bomb_is_not_unpacked(packed, tmp_path):
    contents = members(packed)
    contents["engine/model.bin"] = bytes(1 << 26)
    write(tmp_path / "bomb.zip", contents.items(), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.zip").stat().st_size < 1 << 20

    with pytest.raises(EngineError, match=r"expected a stored file, got a compressed one"):
        unpack_bundle(tmp_path / "bomb.zip", tmp_path / "new")


def test_a_member_that_is_there_twice_is_refused(packed, tmp_path):
    with pytest.warns(UserWarning, match=r"Duplicate name"), zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("model.onnx", b"evil")

    with pytest.raises(EngineError, match=r"expected every name once"):
        unpack_bundle(packed, tmp_path / "new")


@pytest.mark.parametrize("name", ["model.onnx", "engine/model.bin", "manifest.json"])
def test_a_member_that_is_missing_or_larger_is_named(packed, tmp_path, name):
    contents = members(packed)
    write(tmp_path / "larger.zip", [(key, data + b"x" * (key == name)) for key, data in contents.items()])
    write(tmp_path / "missing.zip", [(key, data) for key, data in contents.items() if key != name])

    if name != "manifest.json":
        with pytest.raises(EngineError, match=f"{name}: expected a file of [0-9]+ bytes, got one of"):
            unpack_bundle(tmp_path / "larger.zip", tmp_path / "new")
    with pytest.raises(EngineError, match=name):
        unpack_bundle(tmp_path / "missing.zip", tmp_path / "new")


def test_a_damaged_file_is_refused_or_harmless(packed, tmp_path, key):
    """A zip holds bits that mean nothing to us (dates, flags): what counts is what comes out."""
    whole = packed.read_bytes()
    rng, refused = np.random.default_rng(0), 0
    directory = rng.integers(8 * (len(whole) - 1200), 8 * len(whole), 300)  # the names, at the end
    for bit in [*rng.integers(0, 8 * len(whole), 200), *directory]:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        packed.write_bytes(data)
        out = tmp_path / f"out{bit}"
        try:
            unpack_bundle(packed, out)
        except EngineError as error:
            refused += 1
            assert "\n" not in str(error)
            assert not out.exists()
        else:
            verify_bundle(out, Trust((key.public_key(),)))
            shutil.rmtree(out)
    assert refused > 250


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_packed_bundle_is_one_line(tmp_path, data):
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(EngineError, match=r"x.zip: expected a packed bundle, got a damaged file"):
        unpack_bundle(tmp_path / "x.zip", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_truncated_file_is_one_line(packed, tmp_path):
    whole = packed.read_bytes()
    for size in (1, len(whole) // 2, len(whole) - 1):
        packed.write_bytes(whole[:size])
        with pytest.raises(EngineError, match=r"expected a packed bundle"):
            unpack_bundle(packed, tmp_path / "new")


def test_another_archive_is_no_bundle(tmp_path):
    write(tmp_path / "x.zip", [("readme", b"x")])
    with pytest.raises(EngineError, match=r"expected a packed bundle with a manifest.json, got another archive"):
        unpack_bundle(tmp_path / "x.zip", tmp_path / "new")


def test_a_full_disk_is_one_line(packed, tiny_disk):
    with pytest.raises(OutputError, match=r"No space left on device"):
        unpack_bundle(packed, tiny_disk / "new")
    assert list(tiny_disk.iterdir()) == []
