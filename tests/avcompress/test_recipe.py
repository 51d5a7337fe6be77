"""avcompress.recipe: what is kept beside the models."""

import json
from pathlib import Path

from avcompress.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]


def test_the_schema_file_is_that_of_the_models() -> None:
    stored = json.loads((ROOT / "recipes" / "recipe.schema.json").read_text(encoding="utf-8"))

    assert stored == Recipe.model_json_schema(), "renew it: avcompress schema > recipes/recipe.schema.json"
