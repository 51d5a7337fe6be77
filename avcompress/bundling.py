"""Makes a bundle of a finished run: of an engine that it built, or for a device that is to build its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
from pydantic import ValidationError
from typing_extensions import assert_never

from avcompress import __version__
from avcompress.building import run_build
from avcompress.files import atomic_folder, private_folder
from avcompress.rebuilding import target_job
from avcompress.recipe import Engine, OpenVinoEngine, OrtEngine, RtxEngine, TrtEngine
from avcompress.spec import EngineError, RecipeError
from engines.bundle import ENGINE, NETWORK, RANGES
from engines.bundle_files import check_file, refuse_existing
from engines.expressing import Wanted, choose, gpus
from engines.manifest import CheckLine, Manifest, Measured, read_manifest, write_manifest
from engines.tensorrt.settings import BuildSettings
from validation.report import Report

_FIGURES = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")


@dataclass(frozen=True)
class ForDevice:
    """A machine that builds its engine itself, from the bundle: `avcompress bundle rebuild`.

    Attributes:
        target: its name, with its platform or without.
        profiles: folders with users' own machines.
        dla: the DLA core to build for; None: the GPU.
        dla_fallback: layers that DLA cannot run: refuse the build, or run them on the GPU and list them.
        ranges: a JSON file of [least, largest] by tensor, which a DLA's scales need.
    """

    target: str
    profiles: tuple[Path, ...] = ()
    dla: int | None = None
    dla_fallback: Literal["refuse", "list"] = "refuse"
    ranges: Path | None = None


def create_bundle(
    run: Path, engine: str | ForDevice, out: Path, revision: int = 0, allow_unmet: bool = False
) -> Manifest:
    """Make the new bundle `out` of the run in folder `run`: an engine or none yet, its network, what was measured.

    `engine` is one of the run's, by its backend, or a device that builds its own. Bundles of one run are equal, byte by
    byte. The bundle is not signed.

    Raises RecipeError for a run that has not ended, or whose contract is not met, unless `allow_unmet`; EngineError for
    an engine that is not there, or is no longer what the run built; EngineBuildError for a network that the device's
    dialect cannot say.
    """
    refuse_existing(out)
    if out.resolve().is_relative_to(run.resolve()):
        raise RecipeError(f"--out: expected a folder outside the run's, got {out}; the run would not be resumed there")
    report = _read_report(run / "report.json")
    if not report.passed and not allow_unmet:
        failed = next((line.name for line in report.contract if not line.passed), "it has no line")
        raise RecipeError(
            f"{run}: expected a run that met its contract, got one that did not ({failed}); "
            "mend it, or give --allow-unmet"
        )
    manifest = _read_engine(run, engine) if isinstance(engine, str) else _read_any(run)
    with atomic_folder(out) as new:
        _copy_network(run / NETWORK, manifest.onnx_sha256, new / NETWORK)
        if isinstance(engine, str):
            _copy_engine(run / "engines" / engine, manifest, new / ENGINE)
        else:
            manifest = _without_engine(manifest, engine, new)
        return write_manifest(
            new, manifest.model_copy(update={"revision": revision, "measured": measured_facts(report)})
        )


def _copy_engine(source: Path, manifest: Manifest, target: Path) -> None:
    target.mkdir()
    for name, entry in manifest.files.items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        check_file(source / name, entry.size_bytes, entry.sha256, copy)


def _without_engine(manifest: Manifest, device: ForDevice, new: Path) -> Manifest:
    """The manifest of a bundle whose engine the device builds; what its builder would be given is tried here."""
    asked = {} if device.dla is None else {"dla_core": device.dla}
    wanted = choose(None, device.target, device.profiles, asked)
    if device.ranges is not None:
        _copy_ranges(device.ranges, new / RANGES)
    planned = manifest.model_copy(
        update={
            "engine": _engine(wanted, device),
            "target": wanted.chosen.name if wanted.chosen else None,
            "dialect": None,
            "flags": (),
            "versions": {"avcompress": __version__, "onnx": onnx.__version__},
            "gpu": None,
        }
    )
    with private_folder() as scratch:
        job = target_job(planned, new, scratch / "export", device.profiles, export_only=True)
        outcome = run_build(replace(job, ranges=device.ranges))  # errors name the file that was given
    asked_of = outcome.file.engine
    if not isinstance(asked_of, BuildSettings):
        return planned
    return planned.model_copy(update={"dialect": asked_of.dialect, "flags": asked_of.flags})


def _copy_ranges(source: Path, target: Path) -> None:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise RecipeError(f"--ranges: expected a readable file, got {error.strerror}: {source}; mend it") from error
    target.write_bytes(content)


def _engine(wanted: Wanted, device: ForDevice) -> Engine:
    if device.dla is not None and wanted.backend != "trt":
        raise RecipeError(f"--dla: expected a target with a DLA, got {device.target}; leave it out")
    match wanted.backend:
        case "trt":
            return TrtEngine(backend="trt", dla=device.dla, dla_fallback=device.dla_fallback)
        case "trt_rtx":
            return RtxEngine(backend="trt_rtx", compute_capabilities=gpus(wanted))
        case "openvino":
            return OpenVinoEngine(backend="openvino")
        case "ort":
            return OrtEngine(backend="ort")
        case _:
            assert_never(wanted.backend)


def _read_report(path: Path) -> Report:
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecipeError(
            f"{path}: expected the folder of a run that has ended, got {error.strerror}; "
            "give the --out of avcompress run, after it ended"
        ) from error
    except ValidationError as error:
        raise RecipeError(
            f"{path}: expected the report of this version of avcompress, got another file; "
            "run the recipe again with --resume"
        ) from error


def _read_engine(run: Path, backend: str) -> Manifest:
    built = sorted(path.parent.name for path in run.glob("engines/*/manifest.json"))
    if backend not in built:
        known = ", ".join(built) or "none"
        raise RecipeError(f"--engine: expected one that the run built ({known}), got {backend!r}; name one of them")
    return read_manifest(run / "engines" / backend, verify=False)  # each file is, as it is copied


def _read_any(run: Path) -> Manifest:
    """What any engine of the run says of the network that all were built from."""
    built = sorted(path.parent for path in run.glob("engines/*/manifest.json"))
    if not built:
        raise EngineError(f"{run}: expected a run with an engine, got none; run the recipe again with --resume")
    return read_manifest(built[0], verify=False)


def _copy_network(network: Path, sha256: str, target: Path) -> None:
    if not network.is_file():
        raise EngineError(
            f"{network}: expected the network that the engine was built from, got none; "
            "run the recipe again with --resume"
        )
    check_file(network, network.stat().st_size, sha256, target)


def measured_facts(report: Report) -> Measured:
    """What a report says of accuracy, latency and the verdict."""
    return Measured(
        passed=report.passed,
        contract=tuple(CheckLine(**line.model_dump(include=set(CheckLine.model_fields))) for line in report.contract),
        reference=report.accuracy.reference,
        metrics=report.accuracy.engines,
        latency={
            name: {figure: getattr(facts.total, figure) for figure in _FIGURES}
            for name, facts in report.latency.items()
        },
        machine={key: str(value) for key, value in report.machine.model_dump().items()},
    )
