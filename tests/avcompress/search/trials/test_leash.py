import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process of its parent's end")
def test_a_trial_ends_with_a_search_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = f"import sys; sys.path[:] = {sys.path!r}; "
    tied = (
        path
        + "from avcompress.search.trials.leash import tie; tie(int(sys.argv[1])); import time; print(1, flush=True); "
        "time.sleep(60)"
    )
    parent = path + (
        "import os; from pathlib import Path; from avcompress.search.trials.process import run_command; "
        f"run_command([sys.executable, '-c', {tied!r}, str(os.getpid())], Path({str(log)!r}), 60)"
    )
    search = subprocess.Popen([sys.executable, "-c", parent])
    while not log.exists() or not log.read_text():
        time.sleep(0.05)
    (child,) = Path(f"/proc/{search.pid}/task/{search.pid}/children").read_text().split()
    search.send_signal(signal.SIGKILL)
    search.wait()

    for _ in range(200):
        if not os.path.exists(f"/proc/{child}") or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    raise AssertionError("expected the trial to end with its search")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process of its parent's end")
def test_a_trial_whose_search_was_killed_before_it_had_begun_ends_too() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; from avcompress.search.trials.leash import tie; tie(1); print(1)"
    gone = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)

    assert (gone.returncode, gone.stdout) == (-signal.SIGTERM, b"")
