"""A loaded engine: named arrays in, named arrays out, whatever runtime is behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import NamedTuple, NoReturn, Protocol

import numpy as np

from avcompress.spec import Array, EngineError


class Session(Protocol):
    """A context manager around a loaded engine; one thread at a time may use it."""

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes by name; -1 for a dimension that may vary."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names, in the network's order."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; the arrays that come back are the caller's own.

        Raises EngineError for a wrong input name, shape or dtype, after `close`, and when the runtime fails.
        """
        ...

    def close(self) -> None:
        """Release the engine; a second call does nothing."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class InputSpec(NamedTuple):
    """What an input must be; a dimension of -1 may be anything."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


FLOAT32 = np.dtype(np.float32)


def check_inputs(where: str, specs: Mapping[str, InputSpec], inputs: Mapping[str, Array]) -> None:
    """Raise EngineError unless `inputs` are exactly the arrays that `specs` ask for; a microsecond when they are."""
    if len(inputs) != len(specs):
        _refuse(where, specs, inputs)
    for name, (shape, dtype) in specs.items():
        array = inputs.get(name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            _refuse(where, specs, inputs)
        if array.shape != shape and not _fits(array.shape, shape):
            _refuse(where, specs, inputs)


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in {a, -1} for a, b in zip(shape, wanted, strict=True))


def _refuse(where: str, specs: Mapping[str, InputSpec], inputs: Mapping[str, object]) -> NoReturn:
    if set(inputs) != set(specs):
        raise EngineError(f"{where}: expected inputs {sorted(specs)}, got {sorted(inputs)}; name them so")
    for name, (shape, dtype) in specs.items():
        array = inputs[name]
        if not isinstance(array, np.ndarray):
            raise EngineError(
                f"{where}, input {name!r}: expected an array, got {type(array).__name__}; use numpy.asarray"
            )
        if array.dtype != dtype or not _fits(array.shape, shape):
            raise EngineError(
                f"{where}, input {name!r}: expected {dtype} {_dims(shape)}, got {array.dtype} {_dims(array.shape)}; "
                "preprocess the image for this network"
            )
    raise EngineError(f"{where}: expected inputs {sorted(specs)}, got others; name them so")


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join("?" if size < 0 else str(size) for size in shape) or "scalar"


def one_line(error: object, limit: int = 400) -> str:
    """The text of a runtime's error as one line of at most `limit` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def closed(where: str) -> EngineError:
    """The error of a session that is used after `close`."""
    return EngineError(f"{where}: expected an open session, got a closed one; run inside its `with` block")


class FakeSession:
    """A session around a plain function, for tests of what uses sessions; float32 inputs."""

    def __init__(
        self,
        function: Callable[[Mapping[str, Array]], Mapping[str, Array]],
        inputs: Mapping[str, tuple[int, ...]],
        outputs: tuple[str, ...],
    ) -> None:
        self.inputs: Mapping[str, tuple[int, ...]] = MappingProxyType(dict(inputs))
        self.outputs = outputs
        self._function = function
        self._specs = {name: InputSpec(shape, FLOAT32) for name, shape in inputs.items()}
        self._open = True

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Check the inputs as a real session does, and call the function."""
        if not self._open:
            raise closed("fake session")
        check_inputs("fake session", self._specs, inputs)
        outputs = self._function(inputs)
        if tuple(outputs) != self.outputs:
            raise EngineError(f"fake session: expected outputs {self.outputs}, got {tuple(outputs)}; mend the function")
        return outputs

    def close(self) -> None:
        """Refuse to run from now on."""
        self._open = False

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
