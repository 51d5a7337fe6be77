"""Road scenes rendered here: labelled pictures for a demo and for tests, without a download."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from avcompress.recipe import SceneSource
from calibration.sample import Sample
from calibration.scenes.canvas import STUFF, THINGS
from calibration.scenes.labels import boxes_of, mask_of, tags_of
from calibration.scenes.lens import make_textures
from calibration.scenes.render import render

__all__ = ["Scenes", "open_scenes"]

VERSION = 2
"""Counts changes of the renderer that change pictures or labels."""


class Scenes:
    """A series of scenes: the i-th is the same bytes whenever it is asked for, in any order."""

    def __init__(self, settings: SceneSource) -> None:
        self._settings = settings
        self._indices = range(settings.skip, settings.count, settings.every)[: settings.limit]
        self._textures = make_textures()

    @property
    def classes(self) -> tuple[str, ...]:
        """The class table that labels and masks index."""
        return THINGS if self._settings.labels == "boxes" else STUFF

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names in order."""
        return tuple(f"scene_{self._settings.seed}_{index:05d}" for index in self._indices)

    @property
    def fingerprint(self) -> str:
        """The sha256, in hex, of what decides every picture and label."""
        return hashlib.sha256(f"scenes {VERSION} {self._settings.model_dump_json()}".encode()).hexdigest()

    @property
    def skipped(self) -> tuple[str, ...]:
        """Nothing: every scene can be drawn."""
        return ()

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int, /) -> Sample:
        """Render one scene; raises IndexError beyond the end."""
        number = self._indices[index]
        image, canvas, world = render((self._settings.seed, number), self._settings.size, self._textures)
        name = f"scene_{self._settings.seed}_{number:05d}"
        if self._settings.labels == "boxes":
            return Sample(name, image, boxes=boxes_of(canvas), tags=tags_of(world))
        return Sample(name, image, mask=mask_of(canvas), tags=tags_of(world))


def open_scenes(settings: SceneSource) -> Scenes:
    """Open a series of rendered scenes; nothing is drawn yet."""
    return Scenes(settings)
