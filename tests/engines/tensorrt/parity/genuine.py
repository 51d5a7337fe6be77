"""The genuine Python bindings of TensorRT, without TensorRT: imported beside stub libraries, and asked what they have.

The wheels of the bindings are 1 MB each. They are unpacked into a cache, and never installed.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = {
    "8.6": "tensorrt_bindings==8.6.1",
    "10.3": "tensorrt_cu12_bindings==10.3.0",
    "10.7": "tensorrt_cu12_bindings==10.7.0",
    "10.13": "tensorrt_cu12_bindings==10.13.0.35",
    "11.4": "tensorrt_cu12_bindings==11.4.0.106",
}
"""Of DRIVE OS 6 and JetPack 6.0; JetPack 6.2; the last with DLA by calibration cache; JetPack 7; the newest."""
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
MAJORS = (8, 10, 11)
PIP = (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "-q")


class UnavailableError(Exception):
    """The bindings cannot be had, or not imported, here; says why."""


def cache_folder():
    """Outside of the checkout; of this Python, since the bindings are."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "avcompress-tests" / f"tensorrt-{sys.implementation.cache_tag}"


def api_of(version):
    """What a version has, as dump.py writes it; raises UnavailableError."""
    return dump(bindings(VERSIONS[version]), "tensorrt_bindings", {"LD_LIBRARY_PATH": str(stubs())})


@functools.cache
def rtx_api():
    """What the installed tensorrt_rtx has."""
    return dump(HERE, "tensorrt_rtx", {})


def dump(folder, module, environment):
    command = [sys.executable, str(HERE / "dump.py"), str(folder), module]
    told = run(command, 120, {**os.environ, **environment})
    return json.loads(told)


def bindings(requirement):
    """The folder that holds the unpacked wheel."""
    folder = cache_folder() / requirement.replace("==", "-")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            run([*PIP, "--timeout=10", "--retries=1", "--dest", place, requirement], 120)
            (wheel,) = Path(place).glob("*.whl")
            zipfile.ZipFile(wheel).extractall(Path(place) / "unpacked")
            move(Path(place) / "unpacked", folder)
    return folder


@functools.cache
def stubs():
    """The folder of the stub libraries: one, under every name that the bindings look for."""
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise UnavailableError("no C compiler for the stub libraries: install gcc or clang")
    folder = Path(tempfile.mkdtemp(prefix="tensorrt-stubs-"))
    run([compiler, "-shared", "-fPIC", "-o", str(folder / "stub.so"), str(HERE / "stub.c")], 60)
    for library in LIBRARIES:
        for major in MAJORS:
            (folder / f"lib{library}.so.{major}").symlink_to("stub.so")
    return folder


def run(command, timeout_s, environment=None):
    """What a command prints; raises UnavailableError with its last words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]}: no end after {timeout_s} s") from error
    if done.returncode:
        raise UnavailableError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout


def move(source, target):
    """Put a whole folder in place, unless another process was faster."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
