"""The zoo of architectures: a test that takes `architecture` runs once for each of them."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from torch import nn


@cache
def _zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo", Path(__file__).parent / "quant" / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _exported(name: str) -> onnx.ModelProto:
    from avcompress.export import to_onnx

    return to_onnx(_zoo().build(name), _zoo().SHAPE[2:])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize `architecture` over the names of the zoo."""
    if "architecture" in metafunc.fixturenames:
        metafunc.parametrize("architecture", sorted(_zoo().ARCHITECTURES))


@pytest.fixture
def torch_network() -> Callable[[str], nn.Module]:
    """A network of the zoo by name: seeded, in eval mode, for (1, 3, 64, 64)."""
    return _zoo().build


@pytest.fixture
def onnx_network() -> Callable[[str], onnx.ModelProto]:
    """The ONNX export of a network of the zoo by name; a copy, so that a test may change it."""

    def exported(name: str) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(_exported(name))
        return model

    return exported
