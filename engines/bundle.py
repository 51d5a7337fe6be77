"""A bundle: an engine with all that a vehicle needs to trust, serve and rebuild it, in one folder.

manifest.json    what is in the bundle, and the hash of every file (Manifest)
manifest.sig     Ed25519 signature over manifest.json
model.onnx       the quantized network that the engine was built from
ranges.json      what calibration saw of tensors, where a DLA's scales need it
engine/          the engine; not there yet where it is to be built on its device

An engine is code that runs with the rights of the process that loads it: one that nobody signed is refused, unless the
caller says otherwise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from avcompress.files import private_folder, write_atomically
from avcompress.spec import EngineError, MissingError, RecipeError
from engines.bundle_files import check_file, read_bounded, refuse_others
from engines.machine import local_machine, needs_rebuild
from engines.manifest import LARGEST_BYTES, NAME, SIGNATURE, Manifest, parse_manifest
from engines.session import Session
from engines.signing import LARGEST_BYTES as LARGEST_SIGNATURE
from engines.signing import key_id, sign, signer, verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

NETWORK = "model.onnx"
RANGES = "ranges.json"
ENGINE = "engine"


@dataclass(frozen=True)
class Trust:
    """Which bundles a caller takes.

    Attributes:
        keys: a signature by one of them is enough.
        allow_unsigned: take a bundle without a signature, or with one by a key that is not known: whoever can write to
            the bundle can then run code here. Its files are held against its manifest all the same.
        name: take only the bundle of this recipe.
        min_revision: take no earlier revision: against an old bundle that was signed once.
    """

    keys: tuple[Ed25519PublicKey, ...] = ()
    allow_unsigned: bool = False
    name: str | None = None
    min_revision: int = 0


class Verified(NamedTuple):
    """A bundle whose files are those that its manifest names.

    Attributes:
        sha256: of manifest.json: it stands for the bundle as a whole.
        signed_by: id of the key; None where no trusted key signed it, and the caller takes it all the same.
    """

    manifest: Manifest
    sha256: str
    signed_by: str | None


class Loaded(NamedTuple):
    """An open engine, and the manifest that was verified with it."""

    session: Session
    manifest: Manifest


def verify_bundle(folder: Path, trust: Trust) -> Verified:
    """Hold a bundle against its signature and its manifest: the signature, then the names, then each file's content.

    Raises EngineError naming the first file that is missing, truncated, altered, or not the bundle's own; RecipeError
    when `trust` has neither a key nor `allow_unsigned`.
    """
    return _verify(folder, trust)


def open_bundle(folder: Path, trust: Trust, scratch: Path | None = None) -> Session:
    """Verify a bundle and load its engine; see load_bundle."""
    return load_bundle(folder, trust, scratch).session


def load_bundle(folder: Path, trust: Trust, scratch: Path | None = None) -> Loaded:
    """Verify a bundle and load its engine.

    What is hashed is written to a private folder as it is read, and loaded from there: nobody can swap a file in
    between, nor later, while the runtime still reads it. That folder is made in `scratch` and gone afterwards.

    Raises EngineError for a bundle that is unsigned, altered, built for another GPU or version, or without an engine;
    MissingError for one that this machine cannot run; OutputError when there is no room in `scratch`.
    """
    from engines.build import open_engine

    with verified_copy(folder, trust, f"{ENGINE}/", scratch) as (verified, copy):
        manifest = verified.manifest
        if not has_engine(manifest):
            raise EngineError(
                f"{folder}: expected a bundle with an engine, got one for {manifest.target} whose engine is yet to be "
                "built; build it there: avcompress bundle rebuild"
            )
        reason = needs_rebuild(manifest, local_machine(manifest.engine))
        if reason is not None:
            raise EngineError(
                f"{folder}: expected an engine for this machine, got one {reason}; build it anew here: "
                "avcompress bundle rebuild"
            )
        try:
            return Loaded(open_engine(copy / ENGINE, manifest.engine), manifest)
        except (EngineError, MissingError) as error:
            kind = MissingError if isinstance(error, MissingError) else EngineError
            # The copy's name tells nobody anything, and is gone.
            raise kind(str(error).replace(str(copy), str(folder))) from error


def has_engine(manifest: Manifest) -> bool:
    """Whether a bundle holds its engine already."""
    return any(name.startswith(f"{ENGINE}/") for name in manifest.files)


def sign_bundle(folder: Path, key: Ed25519PrivateKey) -> Verified:
    """Verify a bundle's files and write manifest.sig, in place of an earlier one; raises EngineError, OutputError."""
    data = read_bounded(folder / NAME, LARGEST_BYTES, "a manifest")
    manifest = _checked(folder, data)
    write_atomically(folder / SIGNATURE, sign(data, key))
    return Verified(manifest, hashlib.sha256(data).hexdigest(), key_id(key.public_key()))


@contextmanager
def verified_copy(
    folder: Path, trust: Trust, wanted: str | tuple[str, ...], scratch: Path | None = None
) -> Iterator[tuple[Verified, Path]]:
    """Verify a bundle; yield a private copy of the files whose names begin with `wanted`, of the bytes that were read.

    The copy is gone after the block.
    """
    with private_folder(scratch) as copy:
        yield _verify(folder, trust, copy, wanted), copy


def _verify(folder: Path, trust: Trust, copy: Path | None = None, wanted: str | tuple[str, ...] = "") -> Verified:
    if not trust.keys and not trust.allow_unsigned:
        raise RecipeError("keys: expected a public key to verify by, got none; give the key of who signs your bundles")
    data = read_bounded(folder / NAME, LARGEST_BYTES, "a manifest")
    # The signature first: nothing else looks at what nobody signed.
    signed_by = _signed_by(folder / SIGNATURE, data, trust)
    manifest = _checked(folder, data, copy, wanted)
    _refuse_unwanted(folder / NAME, manifest, trust)
    return Verified(manifest, hashlib.sha256(data).hexdigest(), signed_by)


def _signed_by(path: Path, data: bytes, trust: Trust) -> str | None:
    if not os.path.lexists(path):
        if trust.allow_unsigned:
            return None
        raise EngineError(
            f"{path}: expected the signature of a bundle, got none: an engine is code, and nobody vouches for it; "
            "sign it (avcompress bundle sign), or allow it explicitly"
        )
    signature = read_bounded(path, LARGEST_SIGNATURE, "a signature")
    if trust.allow_unsigned and signer(signature, path) not in map(key_id, trust.keys):
        return None
    return verify(data, signature, trust.keys, path)


def _checked(folder: Path, data: bytes, copy: Path | None = None, wanted: str | tuple[str, ...] = "") -> Manifest:
    """The manifest, after the folder was held against it; see verified_copy."""
    manifest = parse_manifest(data, folder / NAME)
    network = manifest.files.get(NETWORK)
    if network is None or network.sha256 != manifest.onnx_sha256:
        got = "none" if network is None else "another"
        raise EngineError(
            f"{folder / NAME}: expected a bundle with {NETWORK}, which the engine was built from, got {got}; "
            "make one: avcompress bundle create"
        )
    refuse_others(folder, {*manifest.files, NAME, SIGNATURE})
    for name, entry in manifest.files.items():
        target = copy / name if copy and name.startswith(wanted) else None
        if target:
            target.parent.mkdir(parents=True, exist_ok=True)
        check_file(folder / name, entry.size_bytes, entry.sha256, target)
    return manifest


def _refuse_unwanted(path: Path, manifest: Manifest, trust: Trust) -> None:
    if trust.name is not None and manifest.name != trust.name:
        raise EngineError(
            f"{path}: expected the bundle of {trust.name!r}, got that of {manifest.name!r}; give the other one"
        )
    if manifest.revision < trust.min_revision:
        raise EngineError(
            f"{path}: expected revision {trust.min_revision} or later, got {manifest.revision}; give a newer bundle"
        )
