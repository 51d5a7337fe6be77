"""Builds a bundle's engine anew from its network, where the GPU or a version is another."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from avcompress import __version__
from avcompress.files import atomic_folder
from avcompress.spec import RecipeError
from engines.bundle import ENGINE, NETWORK, Trust, verified_copy
from engines.machine import building_gpu
from engines.manifest import Manifest, system_name, write_manifest


def rebuild_bundle(folder: Path, trust: Trust, out: Path, scratch: Path | None = None) -> Manifest:
    """Verify a bundle, and build its engine anew for this machine into the new bundle `out`, which is not signed.

    Settings, contract and provenance stay, and the old manifest is named by its hash. What was measured is left out: it
    was another engine.

    Raises as load_bundle does, EngineBuildError when the backend refuses the network, RecipeError when `out` is there.
    """
    import onnx

    from engines.build import build_engine

    refuse_existing(out)
    with verified_copy(folder, trust, NETWORK, scratch) as (verified, copy), atomic_folder(out) as new:
        old = verified.manifest
        built = build_engine(copy / NETWORK, new / ENGINE, old.engine)
        shutil.copyfile(copy / NETWORK, new / NETWORK)
        changes = {
            "versions": {"avcompress": __version__, "onnx": onnx.__version__, **built.versions},
            "platform": platform.platform(),
            "system": system_name(),
            "gpu": building_gpu(old.engine),
            "measured": None,
            "rebuilt_from": verified.sha256,
        }
        return write_manifest(new, old.model_copy(update=changes))


def refuse_existing(out: Path) -> None:
    """Raise RecipeError when there is anything at a new bundle's place but an empty folder."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise RecipeError(f"--out: expected a new folder, got one that is there: {out}; remove it, or give another")
