"""Runs one command in a child process: how long it took, and how much memory it alone held."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a child ended; `peak_mb` is the most that it held at once, `last` the last line that it printed."""

    code: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    last: str


def run_child(command: Sequence[str | Path], log: Path, timeout_s: float, threads: int = 2) -> Ended:
    """Run a command to its end, or kill it after `timeout_s`; what it prints goes to `log`.

    A child's peak starts at what this process holds, since Linux hands it on: call this from a small process.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "PYTHONHASHSEED": "0"}
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=variables,
        )
        # Where memory runs out, the child is ended, not whatever else this machine does: some peers take 17 GB.
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        code=process.returncode,
        seconds=time.monotonic() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss / 1024,
        last=last_line(log),
    )


def last_line(log: Path) -> str:
    """The last line of a log that says something: of a traceback, the exception."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"
