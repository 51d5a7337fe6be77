"""docs/distillation.md tells of every loss; its keys are in docs/recipe.md."""

import re
from pathlib import Path
from typing import get_args

import pytest

from avcompress.recipe_distill import Loss

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "distillation.md").read_text(encoding="utf-8")
KINDS = [get_args(model.model_fields["kind"].annotation)[0] for model in get_args(get_args(Loss)[0])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_has_a_line(kind):
    (line,) = re.findall(rf"^\| `{kind}` \|.*$", PAGE, re.MULTILINE)

    assert line.count("|") == 4
