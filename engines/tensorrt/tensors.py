"""What a TensorRT engine reads and writes, as NumPy has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from avcompress.spec import EngineError

Shape = tuple[int, ...]

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_ML_DTYPES = {"BF16": "bfloat16", "FP8": "float8_e4m3fn"}


@dataclass(frozen=True)
class IoTensor:
    """An input or an output of an engine.

    Attributes:
        shape: -1 for a dimension that may vary.
        low: the smallest shape that the engine was built for; of inputs, else empty.
        high: the largest.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: Shape
    is_input: bool
    low: Shape = ()
    high: Shape = ()


def read_tensors(trt: Any, engine: Any, profile: int, where: str) -> tuple[IoTensor, ...]:
    """The inputs and outputs in the engine's order; raises EngineError for one that a plain array cannot hold."""
    if not 0 <= profile < engine.num_optimization_profiles:
        raise EngineError(
            f"{where}: expected an optimization profile 0-{engine.num_optimization_profiles - 1}, got {profile}; "
            "choose one that the engine was built with"
        )
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return tuple(_read(trt, engine, name, profile, f"{where}, tensor {name!r}") for name in names)


def _read(trt: Any, engine: Any, name: str, profile: int, where: str) -> IoTensor:
    _refuse_unplain(trt, engine, name, where)
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    low: Shape = ()
    high: Shape = ()
    shape = tuple(engine.get_tensor_shape(name))
    if is_input:
        low = high = shape
    if is_input and -1 in shape:
        smallest, _, largest = engine.get_tensor_profile_shape(name, profile)
        low, high = tuple(smallest), tuple(largest)
    dtype = numpy_dtype(engine.get_tensor_dtype(name), where)
    return IoTensor(name, dtype, shape, is_input, low, high)


def _refuse_unplain(trt: Any, engine: Any, name: str, where: str) -> None:
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise EngineError(
            f"{where}: expected a tensor in device memory, got a shape tensor; fold it into a constant, and build again"
        )
    form = engine.get_tensor_format(name)
    if form != trt.TensorFormat.LINEAR:
        raise EngineError(
            f"{where}: expected the plain row-major format, got {form.name}; build with linear inputs and outputs"
        )


def numpy_dtype(dtype: Any, where: str) -> np.dtype[np.generic]:
    """NumPy's type of a TensorRT DataType; bfloat16 and float8 as ml_dtypes has them."""
    if dtype.name in _DTYPES:
        return np.dtype(_DTYPES[dtype.name])
    if dtype.name in _ML_DTYPES:
        import ml_dtypes

        found: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[dtype.name]))
        return found
    raise EngineError(f"{where}: expected whole bytes a value, got {dtype.name}; cast it inside the network")


def refuse_shape(tensor: IoTensor, shape: Shape, where: str) -> None:
    """Raise EngineError for an input shape that the engine was not built for."""
    if len(shape) != len(tensor.low) or not all(
        a <= size <= b for a, size, b in zip(tensor.low, shape, tensor.high, strict=True)
    ):
        wanted = f"{_dims(tensor.low)} to {_dims(tensor.high)}"
        raise EngineError(
            f"{where}, input {tensor.name!r}: expected {wanted}, got {_dims(shape)}; resize the input, or build the "
            "engine with a profile that holds this shape"
        )


def _dims(shape: Shape) -> str:
    return "x".join(str(size) for size in shape) or "scalar"
