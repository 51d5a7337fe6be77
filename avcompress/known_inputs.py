"""What stands for all that a recipe reads beside itself: the contents of its files, images and labels.

A candidate of a search is known by it, since what options name is nowhere else in its key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from avcompress.files import sha256_file
from avcompress.inputs import find_inputs
from avcompress.recipe import GeneratedSource, Recipe, Sources
from avcompress.spec import AvcompressError, ModelError
from calibration.source import open_source
from engines.onnx_load import external_files

_PARTS = ("calibration", "train", "selection", "validation")


@dataclass(eq=False)
class KnownInputs:
    """Knows the inputs of recipes; reads each file and each set of images once, for they stay as they are meanwhile.

    Attributes:
        recipe_folder: where `import_from` starts.
        data_root: where all other paths start.
        classes: the network's, in output order.
    """

    recipe_folder: Path
    data_root: Path
    classes: tuple[str, ...]
    _read: dict[str, object] = field(default_factory=dict)

    def __call__(self, recipe: Recipe) -> list[object]:
        """Hashes over what this recipe reads; of what is not there, the complaint: once mended, it is another one."""
        try:
            inputs = find_inputs(recipe, self.recipe_folder, self.data_root)
        except AvcompressError as error:
            return [str(error)]
        files = {label: self._file(label, path) for label, path in inputs.items() if not _pictures(label)}
        images = {part: self._images(getattr(recipe.data, part)) for part in _PARTS}
        return [files, images]

    def _file(self, label: str, path: Path) -> object:
        name = f"file {path}"
        if name not in self._read:
            self._read[name] = {
                each.relative_to(path.parent).as_posix(): sha256_file(each) for each in sorted(_files_of(label, path))
            }
        return self._read[name]

    def _images(self, sources: Sources | None) -> object:
        if sources is None:
            return None
        several = sources if isinstance(sources, tuple) else (sources,)
        return [self._fingerprint(each) for each in several if not isinstance(each, GeneratedSource)]

    def _fingerprint(self, source: Sources) -> object:
        name = f"images {source!r}"
        if name not in self._read:
            try:
                self._read[name] = open_source(source, self.data_root, self.classes).fingerprint
            except AvcompressError as error:
                self._read[name] = str(error)
        return self._read[name]


def _pictures(label: str) -> bool:
    """Whether an input is of a set of images, which has a fingerprint of its own."""
    return label.startswith("data.")


def _files_of(label: str, path: Path) -> Iterator[Path]:
    """Of a folder of code its modules, of any other one all files; a file, with those that hold its weights."""
    if path.is_dir():
        pattern = "*.py" if label.endswith("import_from") else "*"
        yield from (each for each in path.rglob(pattern) if each.is_file())
        return
    yield path
    if path.suffix == ".onnx":
        with contextlib.suppress(ModelError):  # a run tells of it
            yield from (path.parent / name for name in external_files(path))
