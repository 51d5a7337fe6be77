"""The network of two layers that importance is tested on."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def chain():
    path = Path(__file__).parents[1] / "importance" / "conftest.py"
    spec = importlib.util.spec_from_file_location("importance_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._chain
