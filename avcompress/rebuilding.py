"""Builds a bundle's engine from its network: where the GPU or a version is another, or where there was none yet."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from avcompress import __version__
from avcompress.building import BESIDE, SETTINGS, BuildJob, run_build
from avcompress.files import atomic_folder
from avcompress.recipe import Engine, RtxEngine, TrtEngine
from avcompress.spec import Track, untracked
from engines.build import build_engine
from engines.built import Built
from engines.bundle import ENGINE, NETWORK, RANGES, Trust, verified_copy
from engines.bundle_files import refuse_existing
from engines.layer_map import Mismatch, compare
from engines.lint import read_model
from engines.machine import building_gpu
from engines.manifest import Manifest, system_name, write_manifest
from engines.planned import plan_in, planned_layers
from engines.tensorrt.build import rtx_settings, trt_settings

_BUILD = "build"


class Rebuilt(NamedTuple):
    """A bundle whose engine was built here.

    Attributes:
        mismatches: the layers that do not run as the network asks; None where the backend does not say.
    """

    manifest: Manifest
    mismatches: tuple[Mismatch, ...] | None


class _Made(NamedTuple):
    """An engine, and what became of the layers; see Rebuilt."""

    built: Built
    mismatches: tuple[Mismatch, ...] | None


def rebuild_bundle(
    folder: Path,
    trust: Trust,
    out: Path,
    scratch: Path | None = None,
    profiles: tuple[Path, ...] = (),
    track: Track = untracked,
) -> Rebuilt:
    """Verify a bundle, and build its engine for this machine into the new bundle `out`, which is not signed.

    A bundle for a named machine is built as `avcompress build --target` does it: checked, in that machine's dialect.
    Settings, contract and provenance stay, and the old manifest is named by its hash. What was measured is left out: it
    was another engine. `profiles` are folders with users' own machines.

    Raises as load_bundle does, EngineBuildError when the backend refuses the network, RecipeError when `out` is there.
    """
    refuse_existing(out)
    with verified_copy(folder, trust, (NETWORK, RANGES), scratch) as (verified, copy), atomic_folder(out) as new:
        old = verified.manifest
        made = (
            _like_before(copy, new, old, track) if old.target is None else _for_target(copy, new, old, profiles, track)
        )
        for name in (NETWORK, RANGES):
            if name in old.files:
                shutil.copyfile(copy / name, new / name)
        changes = {
            "versions": {"avcompress": __version__, "onnx": onnx.__version__, **made.built.versions},
            "dialect": made.built.dialect,
            "flags": made.built.flags,
            "platform": platform.platform(),
            "system": system_name(),
            "gpu": building_gpu(old.engine),
            "measured": None,
            "rebuilt_from": verified.sha256,
        }
        return Rebuilt(write_manifest(new, old.model_copy(update=changes)), made.mismatches)


def target_job(manifest: Manifest, folder: Path, out: Path, profiles: tuple[Path, ...], export_only: bool) -> BuildJob:
    """The build that a manifest with a target asks for, of the network, and the ranges if any, in `folder`."""
    return BuildJob(
        source=folder / NETWORK,
        out=out,
        target=manifest.target,
        profiles=profiles,
        options=_options(manifest.engine),
        ranges=folder / RANGES if (folder / RANGES).is_file() else None,
        export_only=export_only,
    )


def _options(engine: Engine) -> dict[str, Any]:
    """TensorRT's settings of a recipe's engine, those that are not as they are anyway."""
    match engine:
        case TrtEngine():
            return trt_settings(engine).model_dump(exclude={"module"}, exclude_defaults=True)
        case RtxEngine():
            return rtx_settings(engine).model_dump(exclude={"module"}, exclude_defaults=True)
        case _:
            return {}


def _for_target(copy: Path, new: Path, old: Manifest, profiles: tuple[Path, ...], track: Track) -> _Made:
    """Build as `avcompress build` does, and take over the engine with the settings that it was built with."""
    outcome = run_build(target_job(old, copy, copy / _BUILD, profiles, export_only=False), track)
    if outcome.built is None:
        raise AssertionError("a job that is no export builds an engine")
    (new / ENGINE).mkdir()
    for name in outcome.built.files:
        shutil.copyfile(outcome.built.folder / name, new / ENGINE / name)
    for name in (SETTINGS, *BESIDE):
        if (outcome.folder / name).is_file():
            shutil.copyfile(outcome.folder / name, new / ENGINE / name)
    return _Made(outcome.built, outcome.mismatches)


def _like_before(copy: Path, new: Path, old: Manifest, track: Track) -> _Made:
    """Build with the settings of the manifest."""
    built = build_engine(copy / NETWORK, new / ENGINE, old.engine, track)
    if built.dialect is None or built.precisions is None:
        return _Made(built, None)
    plan = plan_in(built.dialect, planned_layers(read_model(copy / NETWORK)), built.told)
    return _Made(built, compare(plan, built.precisions))
