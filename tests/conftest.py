"""Fixtures that several packages share."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Examples have no time limit: it would fail tests where others use the machine, too.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def exported_root() -> Iterator[str | None]:
    """What AVCOMPRESS_DATA says: nothing to any test, or commands would not start from their recipe's own folder."""
    exported = os.environ.get("AVCOMPRESS_DATA")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AVCOMPRESS_DATA", raising=False)
        yield exported


@pytest.fixture(scope="session")
def data_root(exported_root: str | None) -> Path:
    """The real images, labels and models; the test is skipped where they are missing."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    root = Path(exported_root or default)
    if not (root / "coco_mini").is_dir():
        pytest.skip(f"real data: no coco_mini under {root}; set AVCOMPRESS_DATA")
    return root


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; the test is skipped without the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, capture_output=True)
