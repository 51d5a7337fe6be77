"""Fixtures that several packages share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real images, labels and models; the test is skipped where they are missing."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    root = Path(os.environ.get("AVCOMPRESS_DATA", default))
    if not (root / "coco_mini").is_dir():
        pytest.skip(f"real data: no coco_mini under {root}; set AVCOMPRESS_DATA")
    return root
