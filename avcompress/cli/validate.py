"""The command that judges a finished network: a run, a bundle, an engine or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from avcompress.cli.app import DataRoot, Exit, JsonFile, JunitFile, Quiet, app
from avcompress.cli.terminal import check_json, open_console, open_watch, show_outcome, write_outcome
from avcompress.cli.trust import AllowUnsigned, PublicKeys, bundle_trust

RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="Names the labelled images, and the contract; a run brings its own."),
]


@app.command()
def validate(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    what: Annotated[
        Path | None,
        typer.Argument(help="A run's folder, a bundle, an engine's folder or an ONNX file."),
    ] = None,
    recipe: RecipeFile = None,
    data_root: DataRoot = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="What it is held against: a float ONNX, another run, a bundle, or a .json of COCO results; default: "
            "the float network of the run or the recipe.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="A stored baseline, in place of a reference.")
    ] = None,
    save_baseline: Annotated[
        Path | None, typer.Option("--save-baseline", help="Folder to store what was measured in, as a baseline.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Judge these detections, COCO results that were made elsewhere."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Only this backend; an ONNX file is built for it.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")] = None,
    key: PublicKeys = None,
    allow_unsigned: AllowUnsigned = False,
    json_file: JsonFile = None,
    junit_file: JunitFile = None,
    quiet: Quiet = False,
) -> None:
    """Measure a finished network here, compare it with its reference or a stored baseline, and judge its contract.

    Exit code 0: contract met; 1: not met; 2: bad input; 3: something this machine lacks.

    Example: avcompress validate out/yolox --data-root data --out out/verdict

    Example: avcompress validate yolox.bundle --recipe recipe.yaml --key release.pem.pub --baseline baselines/yolox
    """
    from avcompress.judging.references import Against
    from avcompress.judging.validating import ValidateJob
    from avcompress.judging.validating import validate as run_validation

    context.obj.install()
    console = open_console()
    inputs = tuple(path for path in (what, recipe, reference, baseline, predictions) if path is not None)
    for option, path in (("--json", json_file), ("--junit", junit_file)):
        check_json(path, out, inputs, option)
    job = ValidateJob(
        what=what,
        recipe=recipe,
        data_root=data_root,
        against=Against(reference, baseline),
        save_baseline=save_baseline,
        predictions=predictions,
        engine=engine,
        out=out.resolve() if out else None,
        trust=bundle_trust(key, allow_unsigned),
    )
    outcome = run_validation(job, open_watch(console, quiet))
    if not quiet:
        console.print()
    show_outcome(console, outcome)
    write_outcome(outcome, json_file, junit_file)
    raise typer.Exit(Exit.MET if outcome.verdict.passed else Exit.NOT_MET)
