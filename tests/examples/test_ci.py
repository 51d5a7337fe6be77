"""The CI jobs in examples/ci, and the commands in the pages about validation, are what the command line takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from avcompress.cli import app

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("github.yml", "gitlab.yml")
PAGES = ("validation.md", "ci.md")


def scripts(value: Any) -> Iterator[str]:
    """Every text in the job, wherever it is."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from scripts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scripts(inner)
    elif isinstance(value, str):
        yield value


def commands(text: str) -> list[list[str]]:
    lines = (line.partition("  #")[0].strip() for line in text.splitlines())
    return [shlex.split(line)[1:] for line in lines if line.startswith("avcompress ")]


def check(arguments: list[str]) -> None:
    """Parse a command as the process would."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    name = "avcompress"
    while True:
        context = command.make_context(name, list(arguments), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_yaml_whose_commands_the_command_line_takes(name: str) -> None:
    job = yaml.safe_load((ROOT / "examples" / "ci" / name).read_text())
    found = [arguments for text in scripts(job) for arguments in commands(text)]

    assert {arguments[0] for arguments in found} >= {"run", "validate", "bench"}
    for arguments in found:
        check(arguments)


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_are_ones(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for arguments in commands(block):
            check(arguments)


def test_a_command_with_an_option_that_there_is_not_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        check(["validate", "out", "--nonsense"])


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_lead_somewhere(name: str) -> None:
    page = ROOT / "docs" / name
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
