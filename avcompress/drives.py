"""The images that a recipe would take from a recorded drive, as a folder that can be looked at, labelled and kept."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from avcompress.files import atomic_folder
from avcompress.spec import RecipeError, Track, untracked
from calibration.bag.drive import DriveSource


def save_images(source: DriveSource, out: Path, track: Track = untracked) -> None:
    """Write the frames taken as PNG files, in a new folder, in the order of the drive.

    Raises RecipeError where something is there already, OutputError when it cannot be written, DataError for a frame
    that cannot be read any more.
    """
    if out.exists():
        raise RecipeError(f"--out: expected a new folder, got one that is there, {out}; give another --out")
    with atomic_folder(out) as folder:
        for sample in track(source, len(source)):
            # Slashes of the topic would be folders.
            Image.fromarray(sample.image).save(folder / f"{sample.name.replace('/', '_')}.png", compress_level=1)
