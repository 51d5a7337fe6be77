"""The process that compiles: started, followed, held to its limits, and never left behind.

A compiler may crash, hang, or take all memory; none of it reaches this process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avcompress.files import write_atomically
from avcompress.spec import EngineBuildError, Track, untracked
from engines.tensorrt.progress import FILE, ProgressFile
from engines.tensorrt.refusals import crashed, read_text
from engines.tensorrt.settings import BuildSettings
from engines.tensorrt.worker import LOG, RESULT, SETTINGS

OUTPUT = "output.txt"  # what the child prints itself: a traceback, a message of the loader
_POLL_S = 0.05
# Gives the child this process's import path, so that it finds this package however it is installed.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from engines.tensorrt.worker import main; main(sys.argv[2:])"
)


def run_child(onnx: Path, folder: Path, settings: BuildSettings, track: Track = untracked) -> dict[str, Any]:
    """Compile the network in a child, which writes into `folder`; returns what it reports.

    Raises EngineBuildError when the child crashes, or needs more time or memory than the settings allow. It never
    outlives this call, also when the call is interrupted.
    """
    write_atomically(folder / SETTINGS, settings.model_dump_json())
    arguments = [str(onnx), str(folder), str(os.getpid())]
    command = [sys.executable, "-c", _BOOT, json.dumps([os.path.abspath(part) for part in sys.path]), *arguments]
    with (folder / OUTPUT).open("wb") as output:
        # A session of its own: Ctrl-C reaches this process only, which then ends the child.
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, start_new_session=True
        )
        try:
            for _ in track(_follow(child, onnx.name, folder, settings), 100):
                pass
        finally:
            child.kill()
            child.wait()
    if child.returncode != 0 or not (folder / RESULT).is_file():
        log, printed = read_text(folder / LOG), read_text(folder / OUTPUT)
        raise crashed(onnx.name, settings.module, child.returncode, log, printed)
    result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return result


def _follow(child: subprocess.Popen[bytes], name: str, folder: Path, settings: BuildSettings) -> Iterator[int]:
    """Yield each percent as it is reached, until the child ends."""
    deadline = time.monotonic() + settings.timeout_s
    progress, shown = ProgressFile(folder / FILE), 0
    while not _ended(child, min(_POLL_S, max(deadline - time.monotonic(), 0))):
        if time.monotonic() >= deadline:
            raise _limit(
                f"{name}: expected an engine within {settings.timeout_s:g} s, got none",
                "raise timeout_s (--timeout), or look for what makes the graph so large",
            )
        used = memory_mb(child.pid)
        if settings.memory_limit_mb is not None and used > settings.memory_limit_mb:
            raise _limit(
                f"{name}: expected a compiler that takes {settings.memory_limit_mb} MB at most, got one at {used} MB",
                "raise memory_limit_mb (--memory-limit), or lower the optimization level",
            )
        reached = progress.percent()
        yield from range(shown, reached)
        shown = reached
    if child.returncode == 0:
        yield from range(shown, 100)


def _ended(child: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _limit(what: str, remedy: str) -> EngineBuildError:
    return EngineBuildError("build", f"{what}; {remedy}", remedy=remedy)


def memory_mb(pid: int) -> int:
    """What a process holds in memory and in swap; 0 where the system does not tell.

    Asked of the system rather than limited by it: CUDA reserves far more addresses than it ever uses.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return sum(int(kilobytes) for kilobytes in re.findall(r"^Vm(?:RSS|Swap):\s*(\d+) kB", status, re.MULTILINE)) >> 10
