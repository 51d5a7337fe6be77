"""Makes a bundle of a finished run's engine."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from avcompress.files import atomic_folder
from avcompress.spec import EngineError, RecipeError
from engines.bundle import ENGINE, NETWORK
from engines.bundle_files import check_file
from engines.manifest import CheckLine, Manifest, Measured, read_manifest, write_manifest
from engines.rebuild import refuse_existing
from validation.report import Report

_FIGURES = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")


def create_bundle(run: Path, backend: str, out: Path, revision: int = 0, allow_unmet: bool = False) -> Manifest:
    """Copy an engine of the run in folder `run` into the new bundle `out`, with its network and what was measured.

    Bundles of one run are equal, byte by byte. The bundle is not signed.

    Raises RecipeError for a run that has not ended, or whose contract is not met, unless `allow_unmet`; EngineError for
    an engine that is not there, or is no longer what the run built.
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
    manifest = _read_engine(run, backend)
    with atomic_folder(out) as new:
        (new / ENGINE).mkdir()
        for name, entry in manifest.files.items():
            target = new / ENGINE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            check_file(run / "engines" / backend / name, entry.size_bytes, entry.sha256, target)
        _copy_network(run / NETWORK, manifest.onnx_sha256, new / NETWORK)
        return write_manifest(
            new, manifest.model_copy(update={"revision": revision, "measured": measured_facts(report)})
        )


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
        contract=tuple(CheckLine(**line.model_dump(exclude={"margin"})) for line in report.contract),
        reference=report.accuracy.reference,
        metrics=report.accuracy.engines,
        latency={
            name: {figure: getattr(facts.total, figure) for figure in _FIGURES}
            for name, facts in report.latency.items()
        },
        machine={key: str(value) for key, value in report.machine.model_dump().items()},
    )
