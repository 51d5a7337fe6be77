"""The calibration images as a peer's script gets them: one .npy an image, as the network takes it.

Read by every peer in its own environment: NumPy and the standard library only.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class CalibrationImages:
    """The arrays of a folder by name, {input: (1, 3, H, W) float32}; one is in memory at a time."""

    def __init__(self, folder: Path) -> None:
        self._input = json.loads((folder / "input.json").read_text())["name"]
        self._paths = sorted(folder.glob("*.npy"))

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for path in self._paths:
            yield {self._input: np.load(path)}


class ImageReader:
    """The same as the calibration reader that ONNX Runtime and ModelOpt ask for."""

    def __init__(self, images: CalibrationImages) -> None:
        self._images = images
        self._iterator = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image, or None after the last one."""
        return next(self._iterator, None)

    def get_first(self) -> dict[str, np.ndarray]:
        """The first image, wherever the reader stands."""
        return next(iter(self._images))

    def rewind(self) -> None:
        """Begin again."""
        self._iterator = iter(self._images)

    def __len__(self) -> int:
        return len(self._images)


def note_imports(beside: Path, started: float) -> None:
    """Write down how long a script's imports took, beside the model that it will write."""
    beside.with_suffix(".imports.json").write_text(json.dumps({"import_s": time.monotonic() - started}))
