"""Files and folders that are there completely or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from avcompress.spec import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = {
    **dict.fromkeys(FULL, "free some space, or give a folder on another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "give a folder that you may write to"),
    errno.EROFS: "give a folder on a disk that is not mounted read-only",
    errno.EISDIR: "give the path of a file",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of this path is a file: remove it, or give another path"),
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EBUSY: "it is in use, as a mount point perhaps: give another path",
}


def write_atomically(path: Path, data: bytes | str, mode: int = 0o666) -> None:
    """Write a file so that a reader sees the old content or the new one, also after a crash; makes its folder.

    Text is UTF-8. A symbolic link is followed; a device or a pipe (/dev/stdout) is written to directly. `mode`: who may
    read and write it, from its first moment on, less the umask.
    Raises OutputError when the file cannot be written; nothing is left behind then.
    """
    content = data.encode() if isinstance(data, str) else data
    with _as_output_error(path):
        target = Path(os.path.realpath(path))
        # Asked of the path: a pipe behind /dev/stdout has no real path.
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_bytes(content)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _replace_file(target, content, mode)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; raises OutputError."""
    with _as_output_error(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends; all that `path` held is removed.

    On any exception the new folder is removed, and `path` stays as it was. Raises OutputError when the disk is full
    or the folder cannot be made; other exceptions of the block pass through.
    """
    with _as_output_error(path):
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _sibling(target)
        temporary.mkdir()
    try:
        with _as_output_error(path, only=FULL):
            yield temporary
        with _as_output_error(path):
            _sync(temporary)
            _replace_folder(target, temporary)
    except OutputError as error:
        # The temporary name tells nobody anything, and is gone.
        raise OutputError(str(error).replace(str(temporary), str(path))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder that no other user may enter, removed when the block ends; default: in the system's own.

    Raises OutputError when the folder cannot be made, or the disk is full; other exceptions of the block pass through.
    """
    with _as_output_error(parent or Path("temporary folder")):
        temporary = Path(tempfile.mkdtemp(prefix="avcompress-", dir=parent))
    try:
        with _as_output_error(temporary, only=FULL):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_full(folder: Path, size_bytes: int) -> None:
    """Raise OutputError when `folder` has no room for so many bytes.

    For libraries that report a full disk in words of their own, or not at all.
    """
    probe = _sibling(folder / "probe")
    try:
        with _as_output_error(folder, only=FULL), probe.open("xb") as file:
            file.write(bytes(size_bytes))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hex; raises OSError when it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _sibling(path: Path) -> Path:
    """An unused hidden name in the same folder, so that a rename stays on one disk; short, whatever the name is."""
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:12]}.tmp")


def _replace_file(target: Path, content: bytes, mode: int) -> None:
    temporary = _sibling(target)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _replace_folder(target: Path, temporary: Path) -> None:
    if not target.exists():
        os.replace(temporary, target)
        return
    # A folder that holds something cannot be replaced in one step: the old one steps aside, and back on a failure.
    aside = _sibling(target)
    os.replace(target, aside)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


@contextlib.contextmanager
def _as_output_error(path: Path, only: tuple[int, ...] = ()) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        if only and code not in only:
            raise
        advice = _ADVICE.get(code, "give another path")
        raise OutputError(f"{path}: expected to write here, got {error.strerror or error}; {advice}") from error
