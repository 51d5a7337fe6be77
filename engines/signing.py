"""Ed25519 signatures over a manifest, with keys in PEM files: nothing here asks a network.

Source: RFC 8032; keys as PKCS #8 (RFC 8410).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avcompress.files import write_atomically
from avcompress.spec import EngineError, MissingError, RecipeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLIC_SUFFIX = ".pub"
LARGEST_BYTES = 4096  # of a signature's or a key's file
# Signed before the manifest: a signature of this key over anything else can never pass for one of a bundle.
_DOMAIN = b"avcompress bundle manifest, version 1\0"
_ALGORITHM = "ed25519"


def key_id(key: Ed25519PublicKey) -> str:
    """What a signature calls its key: the SHA-256 of its 32 bytes, in hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def generate_key(path: Path, passphrase: bytes | None) -> tuple[Path, str]:
    """Write a new private key, which only its owner may read, and beside it its public key; returns that and its id.

    Raises RecipeError when one of the files is there already: a lost key cannot be made again.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Path(f"{path}{PUBLIC_SUFFIX}")
    for each in (path, public):
        if os.path.lexists(each):
            raise RecipeError(f"{each}: expected a new file, got one that is there; give another --out")
    key = Ed25519PrivateKey.generate()
    secret = forms.BestAvailableEncryption(passphrase) if passphrase else forms.NoEncryption()
    write_atomically(path, key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, secret), 0o600)
    shown = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    write_atomically(public, shown)
    return public, key_id(key.public_key())


def is_encrypted(path: Path) -> bool:
    """Whether a private key needs a passphrase; raises RecipeError when the file cannot be read."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in _read_key(path)


def load_private_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read a private key; raises RecipeError naming the file for anything else, and for a wrong passphrase."""
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read_key(path)
    try:
        # A passphrase that the key does not need is an error of the library, and none of ours.
        key = load_pem_private_key(data, passphrase if is_encrypted(path) else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if is_encrypted(path):
            got = "a wrong one" if passphrase else "none"
            raise RecipeError(f"{path}: expected its passphrase, got {got}; give --passphrase-file") from error
        raise _no_key(path, data, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _other_key(path, key, "private")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key; raises RecipeError naming the file for anything else."""
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read_key(path)
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, data, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _other_key(path, key, "public")
    return key


def sign(data: bytes, key: Ed25519PrivateKey) -> bytes:
    """The content of manifest.sig for a manifest; equal manifests and keys, equal bytes."""
    return _signature_file(key_id(key.public_key()), key.sign(_DOMAIN + data))


def signer(signature_file: bytes, path: Path) -> str:
    """Id of the key that a signature says it is by; raises EngineError for what is no signature."""
    return _parse(signature_file, path)[0]


def verify(data: bytes, signature_file: bytes, keys: Iterable[Ed25519PublicKey], path: Path) -> str:
    """Hold a manifest against its signature by one of the keys; returns that key's id.

    Args:
        data: the manifest, byte by byte.
        signature_file: the content of manifest.sig.
        keys: those that are trusted.
        path: of manifest.sig, for errors.

    Raises EngineError for a key that is not among them, and when the manifest or the signature was altered.
    """
    _require_cryptography()
    from cryptography.exceptions import InvalidSignature

    identity, signature = _parse(signature_file, path)
    known = {key_id(key): key for key in keys}
    if identity not in known:
        trusted = ", ".join(f"{name[:12]}…" for name in known) or "none"
        raise EngineError(
            f"{path}: expected a signature by a key that you trust ({trusted}), got one by {identity[:12]}…; "
            "give that key if it is yours, or take the bundle from who signs yours"
        )
    try:
        known[identity].verify(signature, _DOMAIN + data)
    except InvalidSignature as error:
        raise EngineError(
            f"{path}: expected the signature of the manifest.json beside it, got another: one of the two was altered; "
            "copy the bundle again"
        ) from error
    return identity


def _signature_file(identity: str, signature: bytes) -> bytes:
    facts = {"algorithm": _ALGORITHM, "key": identity, "signature": signature.hex()}
    return f"{json.dumps(facts)}\n".encode()


def _parse(data: bytes, path: Path) -> tuple[str, bytes]:
    """The key's id and the signature; in the one spelling that `sign` writes, so that no bit is free to differ."""
    try:
        facts = json.loads(data)
        identity, signature = facts["key"], bytes.fromhex(facts["signature"])
        same = _signature_file(identity, signature) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise EngineError(f"{path}: expected a signature of avcompress, got an altered or foreign file; sign it again")
    return identity, signature


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES)
    except OSError as error:
        raise RecipeError(f"{path}: expected a key, got {error.strerror}; check the path") from error


def _no_key(path: Path, data: bytes, kind: str) -> RecipeError:
    other = {"public": "private", "private": "public"}[kind]
    if f"{other.upper()} KEY-----".encode() in data:
        beside = f"{PUBLIC_SUFFIX} file beside it" if kind == "public" else f"file without {PUBLIC_SUFFIX}"
        return RecipeError(f"{path}: expected a {kind} key, got a {other} one; give the {beside}")
    return RecipeError(
        f"{path}: expected a {kind} Ed25519 key as PEM, got something else; make one: avcompress bundle keygen"
    )


def _other_key(path: Path, key: Any, kind: str) -> RecipeError:
    got = type(key).__name__.lstrip("_").removesuffix("PublicKey").removesuffix("PrivateKey")
    return RecipeError(
        f"{path}: expected a {kind} Ed25519 key, got one of {got}; make one: avcompress bundle keygen --out KEY"
    )


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingError(
            f"cryptography: expected the package that checks signatures, got: {error}; pip install cryptography"
        ) from error
