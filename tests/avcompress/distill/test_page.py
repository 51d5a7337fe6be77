"""docs/distillation.md names every loss with its keys and their defaults."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from avcompress.recipe_distill import Loss, LossSettings

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "distillation.md").read_text(encoding="utf-8")
KINDS: dict[str, type[LossSettings]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(Loss)[0])
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_has_a_line_with_its_keys_and_numbers(kind):
    (line,) = re.findall(rf"^\| `{kind}` \|.*$", PAGE, re.MULTILINE)

    for name, field in KINDS[kind].model_fields.items():
        if name not in {"kind", "weight"}:
            number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
            written = f"{field.default:g}".removeprefix("0") or "0" if number else ""
            assert re.search(rf"`{name}`[^|]*\({re.escape(written)}" if number else rf"`{name}`", line), name


def test_every_key_has_a_description():
    assert all(
        field.description
        for model in KINDS.values()
        if issubclass(model, BaseModel)
        for name, field in model.model_fields.items()
        if name != "kind"
    )
