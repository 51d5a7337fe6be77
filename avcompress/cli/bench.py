"""The command that measures the latency of an engine: bench."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress.cli.app import Exit, JsonFile, JunitFile, Quiet, app
from avcompress.cli.elsewhere import On, RemoteCommand, as_given, network_files, open_remote
from avcompress.cli.terminal import check_json, open_console, open_watch, write_json, write_junit
from avcompress.cli.trust import AllowUnsigned, PublicKeys, bundle_trust
from avcompress.spec import Check, RecipeError, Verdict
from avcompress.symbols import spelled, tick

if TYPE_CHECKING:
    from avcompress.contract import LatencyTerm, Measure
    from avcompress.judging.benching import BenchJob
    from avcompress.remote import Remote
    from validation.latency.facts import BenchFacts, BoundedMs, DeadlineCheck, Distribution, State

STREAMED = "constant_stream or multi_camera"


@app.command()
def bench(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    engine: Annotated[
        Path, typer.Argument(help="Folder of an engine with its manifest.json, a bundle, or an ONNX file.")
    ],
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of images; default: rendered road scenes of the input's size."),
    ] = None,
    scenario: Annotated[
        Literal["single_stream", "constant_stream", "multi_camera"],
        typer.Option("--scenario", help="How images come: when the last one is done, or at a camera's rate."),
    ] = "single_stream",
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-3, help="Images a second of each camera; default: 10.")
    ] = None,
    cameras: Annotated[int | None, typer.Option("--cameras", min=1, help="How many, in multi_camera.")] = None,
    queue: Annotated[
        Literal["newest", "every"] | None,
        typer.Option(
            "--queue", help="What a busy engine takes next: each camera's newest image (default), or every one."
        ),
    ] = None,
    phases: Annotated[
        Literal["spread", "same"] | None,
        typer.Option("--phases", help="Of several cameras: evenly over the period (default), or all at one moment."),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs",
            min=1,
            help="Images that count, of all cameras; default: 200, or as many as the deadline asks for.",
        ),
    ] = None,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Images before them.")] = 20,
    deadline_ms: Annotated[
        float | None, typer.Option("--deadline-ms", min=1e-6, help="Fail (exit code 1) where this is not kept.")
    ] = None,
    percentile: Annotated[
        Literal["p50", "p90", "p99", "p99.9"] | None,
        typer.Option("--percentile", help="Which must keep the deadline; default: p99, without --max-miss-rate."),
    ] = None,
    max_miss_rate: Annotated[
        float | None,
        typer.Option("--max-miss-rate", min=0, max=1, help="Share of images that may miss the deadline, 0-1."),
    ] = None,
    decide: Annotated[
        Literal["point", "proven_kept", "unless_proven_broken"],
        typer.Option("--decide", help="What must keep it: the estimate, its upper bound, or its lower one."),
    ] = "point",
    engine_only: Annotated[
        bool, typer.Option("--engine-only", help="Without pre- and post-processing; an ONNX file has none.")
    ] = False,
    load: Annotated[int, typer.Option("--load", min=0, help="Processes that keep cores busy meanwhile.")] = 0,
    backend: Annotated[
        Literal["ort", "openvino"] | None, typer.Option("--backend", help="What runs an ONNX file.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of an ONNX file's engine.")] = None,
    look_every: Annotated[
        float | None,
        typer.Option("--look-every", min=0.01, help="Seconds between looks at the machine meanwhile; they disturb."),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", help="Another engine, run in turns with this one, image by image; may be repeated."),
    ] = None,
    on: On = None,
    remote_command: RemoteCommand = None,
    key: PublicKeys = None,
    allow_unsigned: AllowUnsigned = False,
    json_file: JsonFile = None,
    junit_file: JunitFile = None,
    quiet: Quiet = False,
) -> None:
    """Measure the latency of an engine, from the image in memory to the prediction, as a vehicle would ask for it.

    Exit code 0: measured, and a deadline that was given is kept; 1: it is not.

    Example: avcompress bench out/yolox/engines/openvino --scenario constant_stream --rate 30 --deadline-ms 33.3

    Example: avcompress bench model.onnx --backend openvino --runs 1000

    Example: avcompress bench yolox.bundle --key release.pem.pub --on user@vehicle
    """
    from avcompress.judging.benching import BenchJob, bench_engine, check_job

    context.obj.install()
    console = open_console()
    for option, path in (("--json", json_file), ("--junit", junit_file)):
        _check_written(option, path, (engine, *(beside or ())))
    streamed = {"--rate": rate, "--queue": queue}
    _refuse(streamed, scenario != "single_stream", f"--scenario {STREAMED}")
    _refuse({"--cameras": cameras, "--phases": phases}, scenario == "multi_camera", "--scenario multi_camera")
    judged = {"--percentile": percentile, "--max-miss-rate": max_miss_rate, "--junit": junit_file}
    _refuse(judged, deadline_ms is not None, "--deadline-ms")
    _refuse({"--beside": beside or None}, scenario == "single_stream", "--scenario single_stream")
    if scenario == "multi_camera" and cameras is None:
        raise RecipeError("--cameras: expected how many, got nothing; give their number with --scenario multi_camera")
    term = _term(deadline_ms, percentile, max_miss_rate, decide)
    asked = {"rate_hz": rate, "cameras": cameras, "queue": queue, "phases": phases, "background_load": load}
    job = BenchJob(
        source=engine,
        scenario=scenario,
        measure=_measure(runs, warmup, term, {name: value for name, value in asked.items() if value is not None}),
        term=term,
        images=images,
        engine_only=engine_only,
        backend=backend,
        threads=threads,
        trust=bundle_trust(key, allow_unsigned),
        every_s=look_every,
        beside=tuple(beside or ()),
    )
    check_job(job)
    remote = open_remote(on, remote_command)
    watch = open_watch(console, quiet)
    watch.begin(1)
    with watch.step(_title(job) + (f", on {on}" if remote else ""), reused=False, still=True):
        facts = _bench_there(context, remote, job, key or []) if remote else bench_engine(job)[1]
    show(console, facts)
    if json_file:
        write_json(json_file, facts.model_dump(mode="json"))
    if junit_file:
        write_junit(junit_file, facts.network, Verdict(_checks(facts)))
    raise typer.Exit(Exit.NOT_MET if facts.passed is False else Exit.MET)


def _check_written(option: str, path: Path | None, engines: tuple[Path, ...]) -> None:
    check_json(path, None, engines, option)
    if path and any(each.is_dir() and path.resolve().is_relative_to(each.resolve()) for each in engines):
        raise RecipeError(f"{option}: expected a file outside the engine's folder, got {path}; give another path")


def _bench_there(context: typer.Context, remote: Remote, job: BenchJob, keys: list[Path]) -> BenchFacts:
    """The same command there; what it found, with the path that the engine has here."""
    from avcompress.remote import RESULT, facts_from, run_remotely
    from validation.latency.facts import BenchFacts

    files = network_files(job.source)
    renamed: dict[str, list[str]] = {"engine": [next(iter(files))], "images": [], "key": [], "beside": []}
    if job.images is not None:
        files["images"], renamed["images"] = job.images, ["--images", "images"]
    for number, other in enumerate(job.beside):
        own = {f"beside-{number}/{name}": path for name, path in network_files(other).items()}
        files |= own
        renamed["beside"] += ["--beside", next(iter(own))]
    for number, path in enumerate(keys):
        files[f"{number}.pub"] = path
        renamed["key"] += ["--key", f"{number}.pub"]
    arguments = [*as_given(context, renamed), "--json", RESULT, "--quiet"]
    found = facts_from(remote, BenchFacts, run_remotely(remote, arguments, files))
    given = (job.source, *job.beside)
    turns = [each.model_copy(update={"engine": str(path)}) for each, path in zip(found.in_turns, given, strict=False)]
    notes = (f"measured on {remote.host}", *found.notes)
    return found.model_copy(update={"engine": str(job.source), "in_turns": tuple(turns), "notes": notes})


def _checks(facts: BenchFacts) -> tuple[Check, ...]:
    return tuple(
        Check(
            f"{check.name} @ {facts.backend}",
            math.nan if check.value is None else check.value,
            "<=",
            check.limit,
            check.unit,
            low=check.low,
            high=check.high,
            decide=check.decide,
            note=check.note,
            engine=facts.backend,
        )
        for check in facts.checks
    )


def _refuse(options: Mapping[str, object], fits: bool, needed: str) -> None:
    """An option that would be left out of account is an error."""
    given = [name for name, value in options.items() if value is not None]
    if given and not fits:
        raise RecipeError(f"{given[0]}: expected {needed} with it, got none; add it, or leave {given[0]} out")


def _term(
    deadline_ms: float | None,
    percentile: Literal["p50", "p90", "p99", "p99.9"] | None,
    max_miss_rate: float | None,
    decide: Literal["point", "proven_kept", "unless_proven_broken"],
) -> LatencyTerm | None:
    from avcompress.contract import LatencyTerm

    if deadline_ms is None:
        return None
    return LatencyTerm(percentile=percentile, deadline_ms=deadline_ms, max_miss_rate=max_miss_rate, decide=decide)


def _measure(runs: int | None, warmup: int, term: LatencyTerm | None, asked: dict[str, object]) -> Measure:
    from avcompress.contract import Measure
    from validation.latency import runs_needed

    measure = Measure.model_validate({"warmup": warmup, **asked})
    if runs is None:
        runs = max(measure.runs, (runs_needed(term) or 1) if term else 1)
    return measure.model_copy(update={"runs": runs})


def _title(job: BenchJob) -> str:
    measure = job.measure
    title = f"{job.scenario}, {measure.runs} images"
    if job.scenario == "single_stream":
        return title
    cameras = measure.cameras if job.scenario == "multi_camera" else 1
    of = f" of {cameras} cameras" if cameras > 1 else ""
    return f"{title}{of} at {measure.rate_hz:g} Hz: about {measure.runs / measure.rate_hz / cameras:.0f} s"


# --- what people see


def show(console: Console, facts: BenchFacts) -> None:
    """Print what was measured, the deadline, and what to know about both."""
    _say(console, f"{facts.network} by {facts.backend}, {facts.timed}, on {facts.machine['cpu']}")
    _say(console, f"{_came(facts)}; fed {facts.data}")
    console.print(_table(facts))
    latency = facts.scenario.latency
    if facts.scenario.dropped:
        _say(console, f"of the {latency.images} images that were not dropped")
    _say(
        console,
        f"jitter: standard deviation {_ms(latency.deviation_ms)}, p99 - p50 {_ms(latency.spread_ms)}, from image to "
        f"image {_ms(latency.change_ms)}",
    )
    _say(console, _missed(facts), _resources(facts), _states(facts))
    for each in facts.in_turns:
        _say(console, f"in turns: {_plain(each.p50_ms)} ms, chance {_plain(each.noise_ms)} ms: {each.engine}")
    _say(console, *(f"note: {note}" for note in facts.notes), *(f"warning: {line}" for line in facts.warnings))
    for check in facts.checks:
        console.print(_verdict(console, check), soft_wrap=True)


def _came(facts: BenchFacts) -> str:
    scenario = facts.scenario
    text = f"{scenario.scenario}: {scenario.images} images after {scenario.warmup} of warm-up"
    if scenario.rate_hz is not None:
        cameras = f"{scenario.cameras} cameras" if scenario.cameras > 1 else "a camera"
        phases = ", all at one moment" if scenario.phases == "same" else ""
        each = " of each" if scenario.cameras > 1 else ""
        queue = f"the newest{each} is" if scenario.queue == "newest" else "all are"
        text += f", {cameras} at {scenario.rate_hz:g} Hz{phases}, of those that wait {queue} taken"
    if scenario.background_load:
        text += f", {scenario.background_load} processes keep the CPU busy"
    return text


def _table(facts: BenchFacts) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("ms", "mean", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(column, justify="left" if column == "ms" else "right", no_wrap=True)
    scenario = facts.scenario
    for name, found in scenario.stages.items() if len(scenario.stages) > 1 else ():
        table.add_row(name, *_cells(found))
    total = scenario.latency
    table.add_row(Text("total", "bold"), *_cells(total))
    bounded = _percentiles(total)
    table.add_row(f"  {facts.confidence:.0%} at least", "", *(_plain(each.low_ms) for each in bounded), "")
    table.add_row(f"  {facts.confidence:.0%} at most", "", *(_plain(each.high_ms) for each in bounded), "")
    return table


def _cells(found: Distribution) -> list[str]:
    return [_plain(found.mean_ms), *(_plain(each.ms) for each in _percentiles(found)), _plain(found.max_ms)]


def _percentiles(found: Distribution) -> tuple[BoundedMs, ...]:
    return found.p50, found.p90, found.p99, found.p99_9


def _plain(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{_plain(value)} ms"


def _missed(facts: BenchFacts) -> str:
    found = facts.misses
    if found is None or found.rate is None or found.low is None or found.high is None:
        return ""
    dropped = f", {facts.scenario.dropped} of them dropped" if facts.scenario.dropped else ""
    return (
        f"later than {found.deadline_ms:g} ms: {found.images} of {found.of}{dropped}: {_percent(found.rate)} "
        f"({facts.confidence:.0%} bounds {_percent(found.low)} and {_percent(found.high)})"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _resources(facts: BenchFacts) -> str:
    parts = [f"engine {facts.size_bytes / 1e6:.1f} MB"]
    if facts.scenario.peak_memory_mb is not None:
        parts.append(f"peak memory of the process {facts.scenario.peak_memory_mb:.0f} MB")
    for name, joules in facts.scenario.energy_j.items():
        parts.append(f"energy by {name} {joules:.3g} J, {1e3 * joules / max(facts.scenario.images, 1):.3g} mJ an image")
    return ", ".join(parts)


def _states(facts: BenchFacts) -> str:
    """The machine before and after, as far as it tells."""
    if not facts.scenario.machine:
        return ""
    first, last = facts.scenario.machine[0], facts.scenario.machine[-1]
    parts = [f"governor {', '.join(first.governors)}"] if first.governors else []
    parts += [f"power mode {first.power_mode}"] if first.power_mode else []
    for name, unit, before, after in zip(_KINDS, _UNITS, _kinds(first), _kinds(last), strict=True):
        if before is not None and after is not None:
            parts.append(f"{name} {before:g} to {after:g}{unit}")
    return f"machine, before to after: {', '.join(parts)}" if parts else ""


_KINDS = ("fastest core", "hottest", "GPU", "GPU draws", "load average")
_UNITS = (" MHz", " °C", " MHz", " W", "")


def _kinds(state: State) -> tuple[float | None, ...]:
    gpu = state.gpus[0] if state.gpus else None
    return (
        max(state.cpu_mhz, default=None),
        max(state.temperatures_c.values(), default=None),
        gpu.clock_mhz if gpu else None,
        gpu.power_w if gpu else None,
        state.load_average,
    )


def _verdict(console: Console, check: DeadlineCheck) -> Text:
    mark = tick(console) if check.passed else spelled(console, "✗", "FAILED")
    what = {"point": "", "proven_kept": "upper bound of ", "unless_proven_broken": "lower bound of "}[check.decide]
    figure = f"{what}{check.name} {_amount(check.measured, check)}"
    kept = "kept" if check.passed else "NOT kept"
    line = f" {figure}, at most {_amount(check.limit, check)} allowed: {kept}"
    note = f" ({check.note})" if check.note else ""
    return Text.assemble((mark + line, "green" if check.passed else "bold red"), note)


def _amount(value: float | None, check: DeadlineCheck) -> str:
    if value is None:
        return "has no figure"
    return f"{_plain(value)} ms" if check.unit else _percent(value)


def _say(console: Console, *lines: str) -> None:
    for line in filter(None, lines):
        # A manifest's words may be a stranger's, and hold what a terminal obeys.
        shown = "".join(letter if letter.isprintable() else "?" for letter in line)
        console.print(shown, soft_wrap=True, markup=False)
