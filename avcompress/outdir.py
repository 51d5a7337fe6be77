"""The output folder of a run: nobody else's files in it, one run at a time, nothing stale."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from avcompress.files import make_folder
from avcompress.spec import RecipeError

REPORT = ("report.html", "report.json")
RESULTS = ("analysis.html", "analysis.json", "model.onnx", "smaller", *REPORT)
"""What says how a run ended: none of it may outlive the next run's beginning."""
UPDATES = "updates"
OURS = ("engines", "logs", "recipe.yaml", "state", UPDATES, *RESULTS)
LOCK = "state/lock"


@contextlib.contextmanager
def occupy(out: Path, resume: bool, backends: Iterable[str]) -> Iterator[None]:
    """Make `out` ready for a run, and keep other runs out of it until the block ends, however it ends.

    A resumed run keeps `state` and the engines of the given backends, any other run nothing of an earlier one.
    Raises RecipeError when `out` is no folder, holds what is not ours, or another run is at work in it; OutputError
    when it cannot be written to.
    """
    with enter(out):
        _clear(out, resume, tuple(backends))
        yield


@contextlib.contextmanager
def enter(out: Path) -> Iterator[None]:
    """Keep runs out of `out` until the block ends, and leave all that earlier ones wrote; raises as `occupy` does."""
    _refuse_foreign(out)
    make_folder(out / "state")
    with _locked(out):
        yield


def refuse_others(out: Path) -> None:
    """Raise RecipeError for an --out of a report alone that is no folder, or holds something else than one."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out: expected a folder, got a file at {out}; give another --out")
    others = sorted(path.name for path in out.iterdir() if path.name not in REPORT) if out.exists() else []
    if others:
        raise RecipeError(
            f"--out: expected a new folder or an earlier report's, got one with {others[0]!r}; give another --out"
        )


def _refuse_foreign(out: Path) -> None:
    nearest = next(path for path in (out, *out.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise RecipeError(f"--out: expected a folder, got a file at {nearest}; give another --out")
    if nearest != out:
        return
    names = sorted(path.name for path in out.iterdir())
    foreign = [name for name in names if not _is_ours(name)]
    # A user's own folder may well hold a model.onnx: only the lock tells that a run of ours was here.
    if not foreign and not (out / LOCK).exists():
        foreign = [name for name in names if name != "state" or not _is_empty(out / name)]
    if foreign:
        raise RecipeError(
            f"{out}: expected a new folder or an earlier run's, got one with {foreign[0]!r}; give another --out"
        )


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_ours(name: str) -> bool:
    return name in OURS or (name.startswith(".") and name.endswith(".tmp"))


def is_free_within(out: Path, seconds: float) -> bool:
    """Wait for the run that is at work in `out`, if there is one; whether it has ended by then."""
    end = time.monotonic() + seconds
    while not _is_free(out):
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True


def _is_free(out: Path) -> bool:
    if not (out / LOCK).exists():
        return True
    try:
        with _locked(out):
            return True
    except RecipeError:
        return False


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock; the system gives it back when the process ends, even when it is killed."""
    descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecipeError(
                f"{out}: expected a folder of its own, got one that another run is at work in; wait for that run, or "
                "give another --out"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _clear(out: Path, resume: bool, backends: tuple[str, ...]) -> None:
    temporary = [*out.glob(".*.tmp"), *out.glob("state/.*.tmp"), *out.glob("engines/.*.tmp")]
    stale = [out / name for name in (*RESULTS, UPDATES)]
    if resume:
        temporary += out.glob("engines/*/.*.tmp")
        stale += [path for path in out.glob("engines/*") if path.name not in backends]
    else:
        stale += [
            out / "engines",
            out / "logs",
            out / "recipe.yaml",
            *(path for path in out.glob("state/*") if path != out / LOCK),
        ]
    for path in (*temporary, *stale):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, or a link alone; missing is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
