import re
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avcompress.spec import EngineError, MissingError, OutputError, RecipeError
from engines import signing
from engines.signing import (
    generate_key,
    is_encrypted,
    key_id,
    load_private_key,
    load_public_key,
    sign,
    signer,
    verify,
)

MANIFEST = b'{"name": "x"}\n'


def pem(key):
    return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_pair_of_keys_signs_and_verifies(tmp_path, passphrase):
    public, identity = generate_key(tmp_path / "keys" / "release.pem", passphrase)

    private = tmp_path / "keys" / "release.pem"
    assert public == tmp_path / "keys" / "release.pem.pub"
    assert is_encrypted(private) == bool(passphrase)
    signature = sign(MANIFEST, load_private_key(private, passphrase))
    assert verify(MANIFEST, signature, (load_public_key(public),), tmp_path / "manifest.sig") == identity
    assert signer(signature, tmp_path) == identity


def test_only_its_owner_may_read_a_private_key(tmp_path):
    generate_key(tmp_path / "a.pem", None)

    assert stat.S_IMODE((tmp_path / "a.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("there", ["a.pem", "a.pem.pub"])
def test_a_key_that_is_there_is_never_replaced(tmp_path, there):
    (tmp_path / there).write_text("old")
    with pytest.raises(RecipeError, match=f"{there}: expected a new file, got one that is there"):
        generate_key(tmp_path / "a.pem", None)

    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "old"


def test_a_key_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"a part of this path is a file"):
        generate_key(tmp_path / "file" / "a.pem", None)


def test_openssl_agrees_with_a_signature(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    public, _ = generate_key(tmp_path / "a.pem", None)
    signature = sign(MANIFEST, load_private_key(tmp_path / "a.pem"))
    (tmp_path / "message").write_bytes(b"avcompress bundle manifest, version 1\0" + MANIFEST)
    (tmp_path / "raw").write_bytes(bytes.fromhex(re.search(rb'"signature": "(\w+)"', signature).group(1).decode()))

    command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    command += ["-in", str(tmp_path / "message"), "-sigfile", str(tmp_path / "raw")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "Signature Verified Successfully" in done.stdout


def test_a_signature_is_the_same_every_time(key):
    assert sign(MANIFEST, key) == sign(MANIFEST, key)


def test_a_signature_of_the_manifest_alone_does_not_pass(key, tmp_path):
    bare = key.sign(MANIFEST).hex()
    found = sign(MANIFEST, key)
    forged = re.sub(rb'"signature": "\w+"', f'"signature": "{bare}"'.encode(), found)

    with pytest.raises(EngineError, match=r"one of the two was altered"):
        verify(MANIFEST, forged, (key.public_key(),), tmp_path / "manifest.sig")


def test_every_bit_of_a_signature_s_file_counts(key, tmp_path):
    signature = sign(MANIFEST, key)
    for index in range(8 * len(signature)):
        altered = bytearray(signature)
        altered[index // 8] ^= 1 << index % 8
        with pytest.raises(EngineError, match=r"manifest.sig: expected"):
            verify(MANIFEST, bytes(altered), (key.public_key(),), tmp_path / "manifest.sig")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:0],
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: data.upper(),
        lambda data: data.replace(b"{", b'{"key": "0", '),
        lambda data: b"[" * 4000 + data,
        lambda data: b"null" + data[:0],
        lambda data: b'{"key": 1, "signature": 2}' + data[:0],
        lambda data: b"\xff\xfe" + data,
    ],
)
def test_a_signature_has_one_spelling(key, tmp_path, change):
    with pytest.raises(EngineError, match=r"expected a signature of avcompress, got an altered or foreign file"):
        verify(MANIFEST, change(sign(MANIFEST, key)), (key.public_key(),), tmp_path / "manifest.sig")


def test_a_signature_by_another_key_is_refused_with_both_ids(key, tmp_path):
    other = Ed25519PrivateKey.generate()
    with pytest.raises(EngineError, match=f"by {key_id(other.public_key())[:12]}") as caught:
        verify(MANIFEST, sign(MANIFEST, other), (key.public_key(),), tmp_path / "manifest.sig")

    assert key_id(key.public_key())[:12] in str(caught.value)


def test_one_of_several_keys_is_enough(key, tmp_path):
    keys = (Ed25519PrivateKey.generate().public_key(), key.public_key())

    assert verify(MANIFEST, sign(MANIFEST, key), keys, tmp_path) == key_id(key.public_key())


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RSA"),
        (ec.generate_private_key(ec.SECP256R1()), "EllipticCurve|EC"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
    ],
    ids=["rsa", "ec", "ed448"],
)
def test_a_key_of_another_kind_is_refused(tmp_path, other, name):
    (tmp_path / "a").write_bytes(pem(other))
    (tmp_path / "a.pub").write_bytes(public_pem(other))

    with pytest.raises(RecipeError, match=f"a: expected a private Ed25519 key, got one of ({name})"):
        load_private_key(tmp_path / "a")
    with pytest.raises(RecipeError, match=f"a.pub: expected a public Ed25519 key, got one of ({name})"):
        load_public_key(tmp_path / "a.pub")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_corrupt_key_is_one_line(tmp_path, data):
    (tmp_path / "a").write_bytes(data)

    for load in (load_private_key, load_public_key):
        with pytest.raises(RecipeError, match=r"a: expected a (public|private)") as caught:
            load(tmp_path / "a")
        assert "\n" not in str(caught.value)


def test_a_truncated_key_is_one_line(tmp_path, key):
    for name, data, load in (("a", pem(key), load_private_key), ("b", public_pem(key), load_public_key)):
        (tmp_path / name).write_bytes(data[:60] + data[64:])
        with pytest.raises(RecipeError, match=f"{name}: expected a"):
            load(tmp_path / name)


def test_the_two_keys_are_not_taken_for_each_other(tmp_path):
    public, _ = generate_key(tmp_path / "a", None)

    with pytest.raises(RecipeError, match=r"expected a private key, got a public one; give the file without .pub"):
        load_private_key(public)
    with pytest.raises(RecipeError, match=r"expected a public key, got a private one; give the .pub file beside it"):
        load_public_key(tmp_path / "a")


@pytest.mark.parametrize(("passphrase", "got"), [(None, "none"), (b"wrong", "a wrong one")])
def test_a_locked_key_needs_its_passphrase(tmp_path, passphrase, got):
    generate_key(tmp_path / "a", b"right")
    with pytest.raises(RecipeError, match=f"expected its passphrase, got {got}"):
        load_private_key(tmp_path / "a", passphrase)


def test_a_passphrase_that_a_key_does_not_need_is_no_error(tmp_path):
    generate_key(tmp_path / "a", None)
    load_private_key(tmp_path / "a", b"any")


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
def test_a_key_that_cannot_be_read_is_one_line(tmp_path, load):
    with pytest.raises(RecipeError, match=r"none: expected a key, got No such file"):
        load(tmp_path / "none")
    with pytest.raises(RecipeError, match=r"expected a key, got Is a directory"):
        load(tmp_path)


def test_a_machine_without_cryptography_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(MissingError, match=r"pip install cryptography"):
        signing.load_public_key(tmp_path / "a")
