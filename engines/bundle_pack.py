"""A bundle as one file, to carry it: a zip archive without compression; equal bundles, equal bytes."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from avcompress.files import atomic_folder, write_atomically
from avcompress.spec import EngineError, RecipeError
from engines.bundle_files import check_file, open_plain, read_bounded, refuse_existing
from engines.manifest import LARGEST_BYTES, NAME, SIGNATURE, Manifest, parse_manifest
from engines.signing import LARGEST_BYTES as LARGEST_SIGNATURE

_CHUNK = 1 << 20
_MODE = 0o100644 << 16  # a plain file that everybody may read
# What zipfile raises for archives that somebody made wrong; it has no base for them.
_BROKEN = (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OverflowError, OSError, struct.error)
_Members = Mapping[str, zipfile.ZipInfo]


def pack_bundle(folder: Path, path: Path) -> None:
    """Write the manifest, its signature where there is one, and every file of the manifest to one file.

    Raises EngineError naming a file that is not what the manifest says, RecipeError when `path` is there.
    """
    if os.path.lexists(path):
        raise RecipeError(f"--out: expected a new file, got one that is there: {path}; remove it, or give another")
    data = read_bounded(folder / NAME, LARGEST_BYTES, "a manifest")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member(NAME), data)
        if os.path.lexists(folder / SIGNATURE):
            archive.writestr(_member(SIGNATURE), read_bounded(folder / SIGNATURE, LARGEST_SIGNATURE, "a signature"))
        for name, entry in parse_manifest(data, folder / NAME).files.items():
            check_file(folder / name, entry.size_bytes, entry.sha256)
            archive.writestr(_member(name), read_bounded(folder / name, entry.size_bytes, "the same file"))
    write_atomically(path, content.getvalue())


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # of 1980, the first year that zip knows
    member.external_attr = _MODE
    member.create_system = 3  # Unix, wherever it is packed
    return member


def unpack_bundle(path: Path, out: Path) -> Manifest:
    """Write what a packed bundle holds into the new folder `out`: the files of its manifest, and nothing else.

    Sizes and hashes are checked, the signature is not: verify the folder.

    Raises EngineError for an archive that is damaged, compressed, or holds anything but a bundle; RecipeError when
    `out` is there; OutputError when it cannot be written.
    """
    refuse_existing(out)
    with open_plain(path, "a packed bundle") as file, atomic_folder(out) as new:
        archive, members = _read_members(path, file)
        manifest = parse_manifest(_small(path, archive, members.get(NAME), LARGEST_BYTES), path / NAME)
        _refuse_others(path, members, manifest)
        for name, member in members.items():
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as written:
                written.writelines(_chunks(path, archive, member))
        try:
            for name, entry in manifest.files.items():
                check_file(new / name, entry.size_bytes, entry.sha256)
        except EngineError as error:
            raise EngineError(str(error).replace(str(new), str(path))) from error
        return manifest


def _read_members(path: Path, file: BinaryIO) -> tuple[zipfile.ZipFile, _Members]:
    """The archive and its members by name: stored ones, each name once."""
    try:
        archive = zipfile.ZipFile(file)
    except _BROKEN as error:
        raise _broken(path, error) from error
    members = {member.filename: member for member in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise EngineError(f"{path}: expected every name once, got one twice; pack the bundle again")
    for name, member in members.items():
        # Stored, nothing grows when it is unpacked.
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise EngineError(f"{path}: {name}: expected a stored file, got a compressed one; pack the bundle again")
    return archive, members


def _refuse_others(path: Path, members: _Members, manifest: Manifest) -> None:
    """Raise EngineError unless the members are those of the manifest; in all no larger than the archive."""
    expected = {name: entry.size_bytes for name, entry in manifest.files.items()}
    limits = {NAME: LARGEST_BYTES, SIGNATURE: LARGEST_SIGNATURE, **expected}
    for name in sorted({*members, *expected}):
        member = members.get(name)
        if member is None or name not in limits or member.file_size > limits[name]:
            got = "none" if member is None else f"one of {member.file_size} bytes"
            wanted = f"a file of {limits[name]} bytes" if name in limits else "no such file"
            raise EngineError(f"{path}: {name}: expected {wanted}, got {got}; pack the bundle again")
    if sum(member.file_size for member in members.values()) > path.stat().st_size:
        raise EngineError(f"{path}: expected files side by side, got some that overlap; pack the bundle again")


def _small(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo | None, limit: int) -> bytes:
    if member is None or member.file_size > limit:
        raise EngineError(f"{path}: expected a packed bundle with a {NAME}, got another archive; check the path")
    return b"".join(_chunks(path, archive, member))


def _chunks(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(member) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except _BROKEN as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> EngineError:
    return EngineError(f"{path}: expected a packed bundle, got a damaged file: {error}; copy or pack it again")
