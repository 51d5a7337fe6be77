"""What a builder has timed, kept for the next build: one file for each kind of GPU, driver and TensorRT version.

A file is one line of JSON, its key and the hash of the rest, then the cache as TensorRT serializes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from avcompress.files import write_atomically
from engines.tensorrt.device import Device

Key = dict[str, str]


def cache_key(device: Device, version: str) -> Key:
    """What timings hold for: the kind of GPU, not which one, its driver, and the version of TensorRT."""
    return {
        "gpu": device.name,
        "compute_capability": device.compute_capability,
        "driver": device.driver,
        "tensorrt": version,
    }


def cache_path(folder: Path, key: Key) -> Path:
    """The file for a key: readable, and of its own for every key."""
    text = json.dumps(key, sort_keys=True)
    name = re.sub(r"\W+", "-", f"{key['gpu']}-trt{key['tensorrt']}").strip("-").lower()
    return folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.timing"


def read_cache(path: Path, key: Key) -> tuple[bytes, str]:
    """The cache, and a line for people; empty where there is none, or none that can be used."""
    try:
        header, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return b"", f"timing cache: new ({path.name})" if missing else _ignored(path, error.strerror or str(error))
    try:
        stated = json.loads(header)
        whole = stated["sha256"] == hashlib.sha256(content).hexdigest()
    except (ValueError, KeyError, TypeError):
        return b"", _ignored(path, "no timing cache of ours")
    if not whole:
        return b"", _ignored(path, "its content was altered or cut off")
    if stated.get("key") != key:
        return b"", _ignored(path, f"made for {stated.get('key')}")
    return content, f"timing cache: used ({path.name}, {len(content)} bytes)"


def write_cache(path: Path, key: Key, content: bytes) -> None:
    """Write the cache so that another build reads the old one or the new one; raises OutputError."""
    header = json.dumps({"key": key, "sha256": hashlib.sha256(content).hexdigest()}, sort_keys=True)
    write_atomically(path, header.encode() + b"\n" + content)


def _ignored(path: Path, reason: str) -> str:
    return f"timing cache: {path.name} ignored ({reason}), timed anew"
