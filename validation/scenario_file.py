"""What a scenario measured as JSON, so that a later run can read it."""

from __future__ import annotations

import json

from pydantic import TypeAdapter

from validation.latency import ScenarioResult

_ADAPTER = TypeAdapter(ScenarioResult)


def scenario_json(result: ScenarioResult) -> str:
    """A result as JSON; NaN and infinity as Python's json writes them."""
    return json.dumps(_ADAPTER.dump_python(result, mode="json"))


def read_scenario(content: bytes) -> ScenarioResult:
    """What scenario_json wrote."""
    return _ADAPTER.validate_python(json.loads(content))
