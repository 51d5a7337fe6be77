"""The peers' virtual environments: made once, kept as long as their requirements stay the same."""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent


class InstallError(Exception):
    """A peer could not be installed; the message is pip's last line."""


def peer_python(peer: str, work: Path) -> Path:
    """The interpreter of a peer's environment under `work`, which is made where it is missing or out of date.

    Reads requirements-PEER.txt, and requirements-PEER-alone.txt for packages without their dependencies.
    Raises InstallError; the whole of pip's output is in `work`/PEER.log.
    """
    folder, log = work / peer, work / f"{peer}.log"
    listed = HERE / f"requirements-{peer}.txt"
    alone = HERE / f"requirements-{peer}-alone.txt"
    files = [path for path in (listed, alone) if path.is_file()]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in files) + sys.version.encode()).hexdigest()
    stamp, python = folder / "installed.txt", folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == key:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    venv.create(folder, with_pip=True)
    with log.open("wb") as output:
        for path in files:
            options = ["--no-deps"] if path == alone else []
            command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *options, "-r", str(path)]
            if subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False).returncode:
                raise InstallError(install_error(log))
    stamp.write_text(key)
    return python


def install_error(log: Path) -> str:
    """What pip named as the error, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip printed nothing"])[-1][:300]
