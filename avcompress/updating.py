"""An update: a compressed network learns new images, is held to the old ones, and is judged on both as a run is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from avcompress import ranks
from avcompress.files import write_atomically
from avcompress.judging.findings import Findings
from avcompress.judging.given import RECIPE
from avcompress.judging.measuring import read_labels
from avcompress.judging.reporting import Background
from avcompress.judging.versions import Ground, Versions, check_terms, compare_versions, predict_all
from avcompress.outdir import UPDATES, occupy
from avcompress.pipeline import Outcome, conclude, count_measuring, engine_subject, measure
from avcompress.running.bench import outside
from avcompress.running.compress import Compressed
from avcompress.running.early_stop import judged_metric
from avcompress.running.run_findings import EngineResult, images_facts, run_background
from avcompress.running.update_bench import Domain, UpdateBench, UpdateJob, old_trial, prepare_update
from avcompress.running.update_steps import count_update_steps, update_network
from avcompress.spec import Verdict
from avcompress.trial import Subject, check_trial
from avcompress.watch import SilentWatch, Watch
from validation.gates import judge
from validation.report import Provenance, SourceFacts, UpdateFacts

__all__ = ["UpdateJob", "execute_update"]


def execute_update(job: UpdateJob, watch: Watch) -> Outcome | None:
    """Update a compressed network from end to end; finished steps are kept when the job says `resume`.

    What it leaves is an output folder like a run's, that a further update can begin with. Under torchrun every process
    calls this, as `execute`. Raises AvcompressError for bad input and for what this machine lacks.
    """
    with ranks.joined():
        if not ranks.leads():
            ranks.wait()  # the first one has found the job good
            update = prepare_update(job, SilentWatch())
            _read_all(update)
            update_network(update)
            return None
        update = prepare_update(job, watch)
        with occupy(job.out, job.resume, [engine.backend for engine in update.bench.engines]):
            _keep_settings(job, update)
            ranks.wait()
            return _execute(update)


def _keep_settings(job: UpdateJob, update: UpdateBench) -> None:
    """The run's recipe, and every update since as it was written: what the next update reads."""
    write_atomically(job.out / RECIPE, (update.previous.given.path / RECIPE).read_bytes())
    for number, file in enumerate((*update.previous.files, job.path), start=1):
        write_atomically(job.out / UPDATES / f"{number}.yaml", file.read_bytes())


def _execute(update: UpdateBench) -> Outcome:
    bench, watch = update.bench, update.bench.watch
    watch.begin(_count_steps(update))
    for line in (*bench.notes, *outside(bench)):
        watch.note(line)
    told = len(bench.notes)
    grounds = _read_all(update)
    compressed = update_network(update)
    ranks.part()
    findings, results = measure(bench, grounds[0].truth, compressed)
    versions = tuple(_versions(update, grounds, findings, results))
    checks = (check for each in versions for check in each.checks)
    verdict = Verdict((*judge(findings.trial.contract, findings.evidence).checks, *checks))
    background = _background(update, compressed, findings, results)
    facts = _facts(update, versions)
    return conclude(bench, findings, replace(background, update=facts), background.notes[told:], verdict)


def _read_all(update: UpdateBench) -> tuple[Ground, ...]:
    """The labels of all images that are judged, the run's own first; the steps that every process goes through."""
    bench = update.bench
    truth = read_labels(bench.steps, bench.trial)
    check_trial(bench.trial, truth)
    grounds = [Ground(bench.recipe.name, False, old_trial(update), truth, update.settings.forgetting)]
    grounds += [_ground(update, domain, new=False) for domain in update.earlier if domain.trial is not None]
    if update.new.trial is not None:
        grounds.append(_ground(update, update.new, new=True))
    for ground in grounds:
        check_terms(ground, "gain" if ground.new else "forgetting")
    return tuple(grounds)


def _ground(update: UpdateBench, domain: Domain, new: bool) -> Ground:
    trial = domain.trial
    if trial is None:
        raise ValueError(f"{domain.name}: expected labelled images")
    return Ground(domain.name, new, trial, read_labels(update.bench.steps, trial, domain.name), domain.terms)


def _versions(
    update: UpdateBench, grounds: tuple[Ground, ...], findings: Findings, results: tuple[EngineResult, ...]
) -> Iterator[Versions]:
    """Both versions on every ground; on the run's own images the later one was measured with all else."""
    steps = update.bench.steps
    before = {each.subject.name: each.subject for each in update.contenders}
    built = {result.built.backend: engine_subject(result.engine, result.built) for result in results}
    after = {name: built[name] for name in before}
    for ground in grounds:
        old = predict_all(steps, ground, _named(before, "the version before", ground))
        own = ground is grounds[0]
        new = dict(findings.engines) if own else predict_all(steps, ground, _named(after, "the update", ground))
        yield compare_versions(steps, ground, old, new)


def _named(subjects: dict[str, Subject], version: str, ground: Ground) -> dict[str, Subject]:
    """The same, called so that the step of each has a name of its own."""
    return {name: replace(each, name=f"{name} of {version} on {ground.name}") for name, each in subjects.items()}


def _background(
    update: UpdateBench, compressed: Compressed, findings: Findings, results: tuple[EngineResult, ...]
) -> Background:
    """What the report of a run says, and what is new."""
    background = run_background(update.bench, compressed, findings, results, dense_times={})
    known = background.provenance or Provenance()
    networks = {**known.networks, "version before": update.previous.sha256}
    seeds = {**known.seeds, "training": update.settings.qat.seed}
    return replace(
        background,
        sources={**background.sources, **dict(_sources(update, compressed))},
        provenance=known.model_copy(update={"networks": networks, "seeds": seeds}),
    )


def _sources(update: UpdateBench, compressed: Compressed) -> Iterator[tuple[str, SourceFacts]]:
    left_out = compressed.skipped.get("train", ())
    for domain in (*update.earlier, update.new):
        yield domain.name, images_facts(domain.format, domain.train, left_out)


def _facts(update: UpdateBench, versions: tuple[Versions, ...]) -> UpdateFacts:
    return UpdateFacts(
        name=update.settings.name,
        previous=str(update.previous.given.path),
        previous_sha256=update.previous.sha256,
        number=1 + len(update.previous.updates),
        replay=update.settings.replay.share,
        metric=judged_metric(update.bench.recipe, update.bench.classes),
        domains=tuple(each.facts for each in versions),
    )


def _count_steps(update: UpdateBench) -> int:
    """Labels, the network, measurements; then both versions on all images, one known already on the run's own."""
    engines = len(update.contenders)
    others = [domain for domain in (*update.earlier, update.new) if domain.trial is not None]
    passes = 1 + sum(map(len, old_trial(update).validation.corruptions.values()))
    compared = (1 + engines * passes) + len(others) * (2 + 2 * engines)
    return 1 + count_update_steps(update) + count_measuring(update.bench) + compared
