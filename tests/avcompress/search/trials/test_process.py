import os
import sys
import threading
import time
from pathlib import Path

import pytest

from avcompress.outdir import enter
from avcompress.search.trials import process
from avcompress.search.trials.process import Saving, Task, record_of, run_command, run_trial
from avcompress.search.trials.record import load_record
from avcompress.spec import MissingError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def task(folder: Path, limit_s: float = 60, left_s: float = 600) -> Task:
    return Task(
        key="k", number=0, tier=0, share=1.0, suggestion={}, recipe="name: x\n", folder=folder / "trial",
        data_root=folder, cache=folder / "steps", metric="mIoU", limit_s=limit_s, until=time.time() + left_s,
    )  # fmt: skip


def test_what_a_process_prints_is_kept_and_its_exit_code_returned(tmp_path: Path) -> None:
    code = run_command(python("import sys; print('hello', flush=True); sys.exit(7)"), tmp_path / "log", 60)

    assert code == 7
    assert (tmp_path / "log").read_text() == "hello\n"


def test_a_process_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"

    assert run_command(python(child), tmp_path / "log", 5) is None
    grandchild = int((tmp_path / "log").read_text())
    for _ in range(100):
        if not _alive(grandchild):
            return
        time.sleep(0.05)
    raise AssertionError("expected the process's own process to be gone")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    start = time.monotonic()

    assert run_command(python(code), tmp_path / "log", 3) is None
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed", "killed by SIGSEGV"),
        ("print('error: recipe.yaml: mend it'); raise SystemExit(2)", "refused", "recipe.yaml: mend it"),
        ("print('error: no GPU'); raise SystemExit(3)", "lost", "no GPU"),
        ("raise SystemExit(4)", "failed", "exit code 4: it said nothing"),
        ("raise SystemExit(0)", "failed", "exit code 0"),  # and no report
        ("import time; time.sleep(60)", "timed out", "ended after 2 s"),
    ],
)
def test_whatever_a_trial_does_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, status: str, message: str
) -> None:
    monkeypatch.setattr(process, "_command", lambda _: python(code))

    found = run_trial(task(tmp_path, limit_s=2 if status == "timed out" else 60))

    assert found.status == status
    assert message in found.message
    assert not found.met


def test_a_report_that_is_damaged_fails_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os; os.makedirs('run'); open('run/report.json', 'w').write('{')"
    monkeypatch.setattr(process, "_command", lambda task: python(f"import os; os.chdir({str(task.folder)!r}); {code}"))

    assert run_trial(task(tmp_path)).status == "failed"


def test_a_record_is_saved_by_whatever_runs_the_trial_unless_it_says_nothing_of_it(tmp_path: Path) -> None:
    own = task(tmp_path)
    assert Saving(lambda given: record_of(given, "lost", 1.0))(own).status == "lost"
    assert load_record(own.folder, "k") is None

    found = Saving(lambda given: record_of(given, "failed", 1.0))(own)
    assert load_record(own.folder, "k") == found


def test_a_trial_is_not_begun_once_the_budget_is_spent(tmp_path: Path) -> None:
    assert run_trial(task(tmp_path, left_s=-1)).status == "not begun"
    assert not os.path.exists(tmp_path / "trial")


def test_a_trial_that_the_budget_ends_is_not_held_against_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_command", lambda _: python("import time; time.sleep(60)"))

    assert run_trial(task(tmp_path, left_s=1)).status == "not begun"


def test_a_folder_that_a_run_of_a_killed_search_still_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_command", lambda _: python("print('error: mend it'); raise SystemExit(2)"))
    holds, lets_go = threading.Event(), threading.Event()

    def hold() -> None:
        with enter(tmp_path / "trial" / "run"):
            holds.set()
            lets_go.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    holds.wait(60)
    threading.Timer(0.5, lets_go.set).start()
    start = time.monotonic()
    found = run_trial(task(tmp_path))
    holder.join()

    assert time.monotonic() - start > 0.4
    assert found.message == "mend it"


def test_a_folder_that_is_never_free_is_no_verdict_on_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_FREE_S", 0.2)
    with enter(tmp_path / "trial" / "run"):
        with pytest.raises(MissingError, match="got one that another run is at work in; end that run"):
            Saving(run_trial)(task(tmp_path))
        assert run_trial(task(tmp_path, left_s=0.1)).status == "not begun"

    assert load_record(tmp_path / "trial", "k") is None
