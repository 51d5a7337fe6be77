"""Files that are read once and held against what a manifest says of them: what was checked is what was read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from avcompress.spec import EngineError, RecipeError

_CHUNK = 1 << 20
_AGAIN = "copy or build the engine again"


def open_plain(path: Path, what: str) -> BinaryIO:
    """Open a file for reading, but no link, pipe, device or folder; raises EngineError naming it and `what` it is."""
    # NONBLOCK: a pipe that somebody put there would keep us waiting.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        got = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
        missing = error.errno in {errno.ENOENT, errno.ENOTDIR}
        raise EngineError(
            f"{path}: expected {what}, got {got}; {'check the path, or ' if missing else ''}{_AGAIN}"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise EngineError(f"{path}: expected {what}, got a folder, a pipe or a device; {_AGAIN}")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, limit: int, what: str) -> bytes:
    """The content of a small file; raises EngineError when it cannot be read, or is larger than `limit` bytes."""
    with open_plain(path, what) as file:
        data = _read(path, file, limit + 1)
    if len(data) > limit:
        raise EngineError(f"{path}: expected {what} of at most {limit} bytes, got more; {_AGAIN}")
    return data


def check_file(path: Path, size_bytes: int, sha256: str, copy: Path | None = None) -> None:
    """Hold a file against its size and hash; with `copy`, what was read is written there, a new file.

    Raises EngineError naming the file that is missing, truncated, altered, or no plain file; OSError when the copy
    cannot be written.
    """
    with open_plain(path, "the file that the manifest names") as file:
        size = os.fstat(file.fileno()).st_size
        # The size first: it needs no reading, and tells a truncated copy from an altered one.
        if size != size_bytes:
            raise EngineError(f"{path}: expected {size_bytes} bytes, got {size}; {_AGAIN}")
        digest = _digest(path, file, size_bytes, copy)
    if digest != sha256:
        raise EngineError(f"{path}: expected sha256 {sha256[:12]}…, got {digest[:12]}…: the file was altered; {_AGAIN}")


def _digest(path: Path, file: BinaryIO, size_bytes: int, copy: Path | None) -> str:
    """The hash of at most so many bytes and one: a file that somebody lets grow ends all the same."""
    digest = hashlib.sha256()
    left = size_bytes + 1
    with open(copy or os.devnull, "xb" if copy else "wb") as target:
        while chunk := _read(path, file, min(_CHUNK, left)):
            digest.update(chunk)
            target.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def _read(path: Path, file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise EngineError(f"{path}: expected a readable file, got {error.strerror}; {_AGAIN}") from error


def refuse_others(folder: Path, names: Collection[str]) -> None:
    """Raise EngineError for the first thing in `folder` that is not one of the files `names`, or a folder on their way.

    A link is refused whatever it points to.
    """
    files = set(names)
    parents = {name[:index] for name in files for index, letter in enumerate(name) if letter == "/"}
    for name, entry in _entries(folder, ""):
        if entry.is_symlink():
            got = "a symbolic link"
        elif entry.is_dir(follow_symlinks=False):
            got = "" if name in parents else "a folder that the manifest does not name"
        elif not entry.is_file(follow_symlinks=False):
            got = "a pipe or a device"
        else:
            got = "" if name in files else "a file that the manifest does not name"
        if got:
            raise EngineError(f"{folder / name}: expected only the bundle's own files, got {got}; remove it")


def refuse_existing(out: Path) -> None:
    """Raise RecipeError when there is anything at a new bundle's place but an empty folder."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise RecipeError(f"--out: expected a new folder, got one that is there: {out}; remove it, or give another")


def _entries(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder, in order, links not followed; names relative to it."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise EngineError(f"{folder}: expected the folder of a bundle, got {error.strerror}; check the path") from error
    for entry in entries:
        yield f"{prefix}{entry.name}", entry
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path), f"{prefix}{entry.name}/")
