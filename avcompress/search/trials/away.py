"""Trials on machines that share no folder with this one: recipe there, record and files back.

A trial runs in a folder of its own there, removed afterwards; its recipe, log and run come back, the run's `state`
aside. Steps that trials share lie on each machine, until the search ends.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from avcompress.files import atomic_folder, private_folder
from avcompress.search.pool import Pool
from avcompress.search.trials.process import OUT, Runner, Task, record_of
from avcompress.search.trials.record import Record
from avcompress.search.trials.writing import moved_text
from validation.machine import runtime_versions

DATA_ROOT = "AVCOMPRESS_DATA"
"""Where a machine has the data, in case its folder is not the same as here."""
_STATE = f"{OUT}/state"


class Parcel(NamedTuple):
    """What comes back: the record, and a tar archive of the trial's folder."""

    record: Record
    files: bytes


@dataclass(frozen=True)
class Away:
    """A pool for trials, above one that knows nothing of files.

    Attributes:
        pool: where they are run.
        steps: names the folder of shared steps on each machine, see `steps_folder`.
    """

    pool: Pool
    steps: str

    def results(self, work: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Every record, once its files are in the trial's folder here; `work` is a Runner, `tasks` are trials."""
        for number, parcel in self.pool.results(Errand(work, self.steps), tasks):
            if parcel.files:
                unpack(parcel.files, tasks[number].folder)
            yield number, parcel.record


@dataclass(frozen=True)
class Errand:
    """Runs a trial wherever this is called."""

    runner: Runner
    steps: str

    def __call__(self, task: Task) -> Parcel:
        """Run it in a folder that nobody else knows."""
        with private_folder() as home:
            folder = home / "trial"
            folder.mkdir()
            own = replace(
                task,
                recipe=moved_text(task.recipe, task.folder, folder),
                folder=folder,
                data_root=data_root_here(task.data_root),
                cache=steps_folder(self.steps),
            )
            return Parcel(self.runner(own), packed(folder))


def lost(task: Task, how: str) -> Parcel:
    """What comes of a trial whose machines were lost."""
    return Parcel(record_of(task, "lost", 0.0, f"its machine was lost, and another one too: {how}"), b"")


def data_root_here(given: Path) -> Path:
    """The data of this machine: the folder that was given, or else what AVCOMPRESS_DATA says here."""
    own = os.environ.get(DATA_ROOT)
    return Path(own) if own and not given.is_dir() else given


@dataclass(frozen=True)
class MachineLook:
    """Looks whether a machine has the data, and what runs engines in the same versions as here: figures depend on both.

    Attributes:
        versions: of the libraries that build and run engines, here. Those that are not on both machines do not count.
    """

    data_root: Path
    versions: Mapping[str, str]

    def __call__(self) -> str:
        """What is lacking, in words."""
        if not data_root_here(self.data_root).is_dir():
            return (
                f"expected the data at {self.data_root}, got no such folder; copy it there, or set {DATA_ROOT} where "
                "`ray start` is called"
            )
        own = runtime_versions()
        other = [name for name in sorted({*own} & {*self.versions}) if own[name] != self.versions[name]]
        return "; ".join(
            f"expected {name} {self.versions[name]} as here, got {own[name]}; install the same version"
            for name in other
        )


def steps_folder(name: str) -> Path:
    """Of the steps that trials share, on the machine that asks."""
    return Path(tempfile.gettempdir()) / f"avcompress-steps-{os.getuid()}-{name}"


@dataclass(frozen=True)
class StepsRemoval:
    """Removes them."""

    steps: str

    def __call__(self) -> None:
        """From the machine that it is called on."""
        shutil.rmtree(steps_folder(self.steps), ignore_errors=True)


def packed(folder: Path) -> bytes:
    """A folder as a tar archive, a run's `state` left out."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(folder, ".", filter=_kept)
    return stream.getvalue()


def unpack(files: bytes, folder: Path) -> None:
    """Make a folder what `packed` had; whole or not at all."""
    with atomic_folder(folder) as fresh, tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(fresh, filter="data")


def _kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if info.name.removeprefix("./") == _STATE else info
