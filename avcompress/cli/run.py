"""Commands that run recipes: run, demo, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from avcompress.cli.app import Cache, DataRoot, Exit, JsonFile, JunitFile, Out, Quiet, Resume, app
from avcompress.cli.terminal import (
    check_cache,
    check_json,
    open_console,
    open_watch,
    show_outcome,
    write_json,
    write_outcome,
)


@app.command()
def run(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="The YAML recipe.")],
    out: Out,
    data_root: DataRoot = None,
    resume: Resume = False,
    json_file: JsonFile = None,
    junit_file: JunitFile = None,
    cache: Cache = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", help="Measure what layers lose (ptq.mixed) on a Ray cluster: its host:port, auto, or local."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: stages, engines, measurements, verdict, report.

    Example: avcompress run recipes/yolox_nano_coco.yaml --data-root data --out out/yolox
    """
    from avcompress.pipeline import Job, execute
    from avcompress.recipe_load import load_recipe

    context.obj.install()
    console = open_console()
    loaded = load_recipe(recipe)
    check_json(json_file, out, (recipe,))
    check_json(junit_file, out, (recipe,), "--junit")
    job = Job(
        recipe=loaded,
        recipe_path=recipe.resolve(),
        data_root=(data_root or recipe.parent).resolve(),
        out=out.resolve(),
        resume=resume,
        cache=check_cache(cache, out),
        ray=ray,
    )
    outcome = execute(job, open_watch(console, quiet))
    if outcome is None:  # another process of torchrun's tells
        raise typer.Exit
    if not quiet:
        console.print()
    show_outcome(console, outcome)
    write_outcome(outcome, json_file, junit_file)
    raise typer.Exit(Exit.MET if outcome.verdict.passed else Exit.NOT_MET)


@app.command()
def demo(
    context: typer.Context,
    out: Out = Path("demo_out"),
    resume: Resume = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Train, quantize and judge a detector and a segmenter on rendered road scenes: needs no files.

    Example: avcompress demo --out demo_out
    """
    from avcompress.pipeline import Job, execute
    from avcompress.recipe_load import load_recipe

    context.obj.install()
    console = open_console()
    check_json(json_file, out, ())
    outcomes = []
    for path in sorted((Path(__file__).parents[1] / "demo").glob("*.yaml")):
        recipe = load_recipe(path)
        if not quiet:
            console.rule(f"{recipe.name}", align="left", style="dim")
        folder = out.resolve() / path.stem
        job = Job(recipe=recipe, recipe_path=path, data_root=path.parent, out=folder, resume=resume)
        outcomes.append(execute(job, open_watch(console, quiet)))
    told = [outcome for outcome in outcomes if outcome is not None]
    for outcome in told:
        if not quiet:
            console.print()
        show_outcome(console, outcome)
    if json_file:
        write_json(json_file, [outcome.report.model_dump(mode="json") for outcome in told])
    raise typer.Exit(Exit.MET if all(outcome.verdict.passed for outcome in told) else Exit.NOT_MET)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    Example: avcompress schema > recipes/recipe.schema.json
    """
    from avcompress.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))
