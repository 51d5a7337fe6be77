"""`avcompress build`: one network to one engine, here, or in a folder for the device that it is for.

A build folder holds the network in its target's dialect, build.json, build.sh and, once built, engine/: the engine can
be built anew from it wherever TensorRT is. All this needs no torch and no other backend: it runs on a vehicle, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import onnx
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import assert_never

from avcompress.build_script import build_script
from avcompress.files import atomic_folder, make_folder, write_atomically
from avcompress.recipe import OpenVinoEngine, OrtEngine
from avcompress.spec import EngineBuildError, LayerPlan, ModelError, RecipeError, TensorRange, Track, untracked
from engines.build import Built, build_engine, require
from engines.built import LAYERS, MODEL
from engines.capabilities import Target
from engines.dialects import Expressed
from engines.dialects.dialect import CACHE, LAYER_OUTPUT_TYPES, LAYER_PRECISIONS, PRECISIONS
from engines.expressing import Backend, FloatType, Wanted, choose, expressed, gpus, in_words, typing_of
from engines.layer_map import Counts, Mismatch, compare, read_counts
from engines.lint import lint, read_model, to_bytes
from engines.onnx_graph import name_nodes
from engines.planned import planned_layers, with_precisions
from engines.tensorrt.optimization import check_profiles, graph_shapes
from engines.tensorrt.settings import BuildSettings

Buildable = BuildSettings | OpenVinoEngine | OrtEngine
SETTINGS, SCRIPT, ENGINE, FACTS = "build.json", "build.sh", "engine", "built.json"
BESIDE = (CACHE, PRECISIONS, LAYER_PRECISIONS, LAYER_OUTPUT_TYPES)
TAKEN = frozenset({SETTINGS, SCRIPT, ENGINE, *BESIDE})
T = TypeVar("T", bound=BaseModel)


class BuildFile(BaseModel):
    """build.json: what a build folder's engine is built from, and how.

    Attributes:
        target: what it is for, in words.
        network: its file, beside this one.
        lint: the target that the network is checked for before it is built.
        as_is: whether it is built although that check finds something.
        notes: what was changed in the network for its target, for people.
        engine: its backend's settings; a calibration cache lies beside this file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    target: str
    network: str
    lint: Target
    as_is: bool = False
    notes: tuple[str, ...] = ()
    engine: Buildable


@dataclass(frozen=True)
class BuildJob:
    """What the command line asks for; None leaves a setting to the folder, or to the backend.

    Attributes:
        source: an ONNX file, or a build folder.
        out: the build folder; None for a source that is one.
        target: a machine, with its platform or without.
        profiles: folders with users' own machines.
        options: BuildSettings by name.
        float_type: of what is not quantized; None: as the network has it.
        ranges: a JSON file of [least, largest] by tensor: what calibration saw.
        calibration: a calibration cache, for a network that is in the dialect dla-implicit already.
        precisions: a JSON file of precisions by node.
        as_is: take the network as it is: not in its target's dialect, and although lint finds what will go wrong.
        export_only: stop before the engine.
    """

    source: Path
    out: Path | None = None
    backend: Backend | None = None
    target: str | None = None
    profiles: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    float_type: FloatType | None = None
    ranges: Path | None = None
    calibration: Path | None = None
    precisions: Path | None = None
    as_is: bool = False
    export_only: bool = False


@dataclass(frozen=True)
class Prepared:
    """A network as its builder wants it, and the files beside it."""

    file: BuildFile
    network: bytes
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Outcome:
    """What was made.

    Attributes:
        built: None where nothing was built: an export only.
        plan: what the network asks of its weighted layers.
        mismatches: the layers that do not run so; None where the backend does not say, or is free to choose.
        counts: the engine's own layers, counted; None where the backend does not say.
    """

    folder: Path
    file: BuildFile
    built: Built | None
    plan: tuple[LayerPlan, ...]
    mismatches: tuple[Mismatch, ...] | None
    counts: Counts | None


def run_build(job: BuildJob, track: Track = untracked) -> Outcome:
    """Make the build folder, and the engine in it unless the job says `export_only`.

    Raises RecipeError, ModelError, EngineBuildError, MissingError, OutputError; a failure leaves what was there.
    """
    prepared = _from_folder(job) if job.source.is_dir() else _from_network(job)
    if not job.export_only:
        require(prepared.file.engine)
    model = _checked(prepared, job.source)
    plan = planned_layers(model)
    if isinstance(prepared.file.engine, BuildSettings):
        plan = with_precisions(plan, prepared.file.engine.precisions)
        if prepared.file.engine.timing_cache:
            make_folder(Path(prepared.file.engine.timing_cache))
    out = job.out or job.source
    built: Built | None
    if job.out is None:
        built = _build(prepared, out, out, plan, track)
    else:
        _refuse_foreign(out)
        with atomic_folder(out) as temporary:
            _write_folder(temporary, prepared, model)
            built = None if job.export_only else _build(prepared, temporary, out, plan, track)
        built = replace(built, folder=out / ENGINE) if built else None
    return _outcome(out, prepared.file, built, plan)


# --- from what the command line names to a network and its settings


def _from_network(job: BuildJob) -> Prepared:
    """An ONNX file of any tool, quantized or not, in the dialect of its target."""
    if job.out is None:
        raise RecipeError("--out: expected a folder for the engine, got nothing; give one")
    if job.source.name in TAKEN:
        raise RecipeError(f"{job.source}: expected a name that the build folder has not taken, got it; rename the file")
    model = name_nodes(read_model(job.source))
    wanted = choose(job.backend, job.target, job.profiles, job.options)
    typing = _typing(job)
    found = None if typing or job.as_is else _expressed(job, model, wanted)
    file = BuildFile(
        target=wanted.words,
        network=job.source.name,
        lint=wanted.lint,
        as_is=job.as_is,
        notes=found.notes if found else (),
        engine=_engine(job, wanted, typing_of(found) if found else typing),
    )
    files = dict(found.files) if found else {CACHE: _read(job.calibration)} if job.calibration else {}
    network = found.model if found else model
    return Prepared(file, to_bytes(network, job.source, job.out / job.source.name), files)


def _expressed(job: BuildJob, model: onnx.ModelProto, wanted: Wanted) -> Expressed | None:
    try:
        return expressed(model, wanted, job.float_type, _ranges(job, model), job.options.get("dla_fallback", "refuse"))
    except ModelError as error:
        raise in_words(job.source, error) from error


def _ranges(job: BuildJob, model: onnx.ModelProto) -> dict[str, TensorRange]:
    """What calibration saw of tensors, from a JSON object of [least, largest] by tensor."""
    if job.ranges is None:
        return {}
    found = _read_ranges(job.ranges)
    tensors = {name for node in model.graph.node for name in (*node.input, *node.output)}
    if not tensors & found.keys():
        got = f"those of another, as {next(iter(found))!r}" if found else "none"
        raise RecipeError(
            f"{job.ranges}: expected ranges of tensors of {job.source.name}, got {got}; "
            "write them anew: avcompress calibrate --ranges-out"
        )
    return found


def _read_ranges(path: Path) -> dict[str, TensorRange]:
    content = _read_json(path)
    try:
        return {name: TensorRange((float(low),), (float(high),)) for name, (low, high) in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{path}: expected an object of [least, largest] by tensor, got something else ({error}); mend it"
        ) from error


def _engine(job: BuildJob, wanted: Wanted, typing: Mapping[str, Any]) -> Buildable:
    """The settings of the build: what the command line says, what the network's dialect needs."""
    match wanted.backend:
        case "openvino" | "ort":
            if job.options or job.calibration or job.precisions:
                named = ", ".join(job.options) or "a calibration cache or precisions"
                raise RecipeError(f"{wanted.backend}: expected no options of TensorRT, got {named}; leave them out")
            return OpenVinoEngine(backend="openvino") if wanted.backend == "openvino" else OrtEngine(backend="ort")
        case "trt_rtx":
            own = {"module": "tensorrt_rtx", "compute_capabilities": gpus(wanted)}
            return _validated(BuildSettings, own | dict(job.options) | dict(typing))
        case "trt":
            cache = {"calibration_cache": CACHE} if typing.get("dialect") == "dla-implicit" else {}
            return _validated(BuildSettings, {"module": "tensorrt", **job.options, **typing, **cache})
        case _:
            assert_never(wanted.backend)


def _from_folder(job: BuildJob) -> Prepared:
    """A build folder; the command line's own options come before those in it."""
    path = job.source / SETTINGS
    if not path.is_file():
        raise RecipeError(
            f"{job.source}: expected an ONNX file or a build folder, got a folder without {SETTINGS}; name the file, "
            "or make the folder with --export-only"
        )
    if any((job.backend, job.target, job.float_type, job.ranges, job.calibration, job.precisions)):
        raise RecipeError(
            f"{job.source}: expected no --target, --backend, --float, --ranges, --calibration-cache or --precisions, "
            "the folder says all, got one; leave it out"
        )
    if job.export_only and job.out is None:
        raise RecipeError("--out: expected a folder for the export, got nothing; give one")
    file = _validated(BuildFile, _read_json(path), str(path))
    if isinstance(file.engine, BuildSettings):
        engine = _validated(BuildSettings, file.engine.model_dump() | dict(job.options))
        file = file.model_copy(update={"engine": engine, "as_is": file.as_is or job.as_is})
    elif job.options:
        raise RecipeError(
            f"{job.source}: expected no options of TensorRT for {file.engine.backend}, got "
            f"{', '.join(job.options)}; leave them out"
        )
    network = job.source / file.network
    if network.parent != job.source:
        raise RecipeError(f"{path}: network: expected a file beside it, got {file.network!r}; mend it")
    cache = file.engine.calibration_cache if isinstance(file.engine, BuildSettings) else ""
    if cache not in {"", CACHE}:
        raise RecipeError(f"{path}: calibration_cache: expected {CACHE} beside it, got {cache!r}; mend it")
    beside = {name for name in BESIDE if (job.source / name).is_file()} | ({cache} - {""})
    return Prepared(file, _read(network), {name: _read(job.source / name) for name in sorted(beside)})


def _typing(job: BuildJob) -> dict[str, Any]:
    """What the command line itself tells of a network that is in the dialect dla-implicit already."""
    if not (job.calibration or job.precisions):
        return {}
    if job.calibration is None or job.options.get("dialect") != "dla-implicit":
        raise RecipeError(
            "--calibration-cache: expected it with --dialect dla-implicit, and --precisions with it, got one without "
            "the other; give them together"
        )
    flags = ("fp16", "int8", "obey") if job.precisions else ("fp16", "int8")
    return {
        "dialect": "dla-implicit",
        "flags": flags,
        "precisions": _precisions(job.precisions) if job.precisions else {},
    }


def _precisions(path: Path) -> Any:
    """Precisions by node: a plain mapping, or one that gives each layer's precision among other facts."""
    content = _read_json(path)
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected an object of precisions by node, got {type(content).__name__}; mend it")
    layers = content.get("layers")
    if not isinstance(layers, dict):
        return content
    return {name: facts.get("precision") for name, facts in layers.items() if isinstance(facts, dict)}


def _is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _validated(kind: type[T], values: Mapping[str, Any], where: str = "options") -> T:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        # A branch of a union has a name of pydantic's own, as function-after[...].
        place = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise RecipeError(message) from error
        raise RecipeError(f"{where}: {place or 'the file'}: {message}, got {first['input']!r}; mend it") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: expected a readable file, got {error.strerror}; check the path") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise RecipeError(f"{path}: expected JSON, got: {error}; export it again") from error


# --- checks before the work


def _checked(prepared: Prepared, source: Path) -> onnx.ModelProto:
    """The network, after what is known to fail or to be changed silently; raises EngineBuildError at the first."""
    file, name = prepared.file, prepared.file.network
    model = onnx.ModelProto()
    model.ParseFromString(prepared.network)
    if isinstance(file.engine, BuildSettings):
        static = file.engine.dla_core is not None
        check_profiles(name, graph_shapes(model), file.engine.profiles, static)
    if file.as_is:
        return model
    bad = [finding for finding in lint(model, file.lint, source.parent) if finding.severity in {"refused", "changed"}]
    if bad:
        first, more = bad[0], f" (and {len(bad) - 1} more)" if bad[1:] else ""
        raise EngineBuildError(
            "check",
            f"{name}, {first.where}: expected what {file.lint} builds as it is, got {first.what}{more}: {first.why}; "
            f"{first.fix}. `avcompress lint --target {file.lint}` shows all, --as-is builds all the same",
            node=first.where,
            remedy=first.fix,
        )
    return model


def _refuse_foreign(out: Path) -> None:
    """Raise RecipeError for an --out that holds anything but an earlier build."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out: expected a folder, got a file at {out}; give another --out")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if not names:
        return
    ours = set(TAKEN)
    if SETTINGS in names:
        ours.add(_validated(BuildFile, _read_json(out / SETTINGS), str(out / SETTINGS)).network)
    foreign = sorted(names - ours) or sorted(names - {SETTINGS} if SETTINGS not in names else ())
    if foreign:
        raise RecipeError(
            f"{out}: expected a new folder or an earlier build's, got one with {foreign[0]!r}; give another --out"
        )


# --- the work


def _write_folder(folder: Path, prepared: Prepared, model: onnx.ModelProto) -> None:
    file = prepared.file
    write_atomically(folder / file.network, prepared.network)
    for name, content in prepared.files.items():
        write_atomically(folder / name, content)
    # A timing cache is this machine's.
    stored = file.model_dump(mode="json")
    if isinstance(file.engine, BuildSettings):
        stored["engine"]["timing_cache"] = ""
        write_atomically(folder / SCRIPT, build_script(file.network, file.engine, _is_quantized(model)))
        (folder / SCRIPT).chmod(0o755)
    write_atomically(folder / SETTINGS, json.dumps(stored, indent=1) + "\n")


def _build(prepared: Prepared, folder: Path, shown: Path, plan: tuple[LayerPlan, ...], track: Track) -> Built:
    """Build `folder`/engine from what lies in `folder`, which people will see as `shown`."""
    engine = prepared.file.engine
    if isinstance(engine, BuildSettings) and engine.calibration_cache:
        engine = engine.model_copy(update={"calibration_cache": str((folder / CACHE).resolve())})
    built = build_engine(folder / prepared.file.network, folder / ENGINE, engine, track)
    facts = outcome_facts(_outcome(shown, prepared.file, built, plan))
    write_atomically(folder / ENGINE / FACTS, json.dumps(facts, indent=1) + "\n")
    return built


def _outcome(folder: Path, file: BuildFile, built: Built | None, plan: tuple[LayerPlan, ...]) -> Outcome:
    told = built.precisions if built and isinstance(file.engine, BuildSettings) else None
    return Outcome(
        folder=folder,
        file=file,
        built=built,
        plan=plan,
        mismatches=None if told is None else compare(plan, told),
        counts=read_counts(built.folder / LAYERS) if built and LAYERS in built.files else None,
    )


def outcome_facts(outcome: Outcome) -> dict[str, Any]:
    """The facts of a build, for JSON."""
    built, file = outcome.built, outcome.file
    facts: dict[str, Any] = {
        "schema_version": 1,
        "target": file.target,
        "folder": str(outcome.folder),
        "network": file.network,
        "notes": list(file.notes),
        "settings": file.engine.model_dump(mode="json"),
        "engine": None,
    }
    if built is None:
        return facts
    facts["engine"] = {
        "backend": built.backend,
        "file": f"{ENGINE}/{MODEL[built.backend]}",
        "size_bytes": built.size_bytes,
        "seconds": round(built.seconds, 3),
        "versions": dict(built.versions),
        "note": built.note,
        "notes": list(built.notes),
    }
    facts["layers"] = [
        {
            "name": layer.name,
            "op": layer.op,
            "planned": layer.precision,
            "got": (built.precisions or {}).get(layer.name),
            "macs": layer.macs,
        }
        for layer in outcome.plan
    ]
    facts["mismatches"] = None if outcome.mismatches is None else [asdict(each) for each in outcome.mismatches]
    facts["counts"] = None if outcome.counts is None else asdict(outcome.counts)
    return facts
