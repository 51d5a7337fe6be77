"""The values that flow between the packages, and the errors they raise.

AvcompressError             one clear line for the user, and an exit code
├── RecipeError       (2)   a recipe, or a command-line argument, is wrong
├── DataError         (2)   images, labels, a calibration set
├── ModelError        (2)   the user's network
├── EngineError       (2)   a backend refused or failed
│   └── EngineBuildError    ... while it built an engine
├── PeerError         (2)   another process of the same run ended
├── MissingError      (3)   something this machine lacks: a backend, a GPU
│   └── LateError           ... an answer within its time
└── OutputError       (3)   the output could not be written: full disk, no permission

Every message reads `where: expected X, got Y; what to do`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Batch = Mapping[str, Array]
"""Network inputs by name: float32, (N, C, H, W)."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""The ONNX operators that multiply and accumulate: those that a precision is chosen for."""

T = TypeVar("T")
Precision = Literal["int8", "fp8", "int8 weights", "int4 weights", "int8 dynamic", "fp16", "bf16", "fp32", "float"]
"""What a weighted layer computes in: "float" is any float type; "... weights": only they are stored so."""

QDtype = Literal["int8", "uint8", "int4", "float8e4m3fn"]
"""What values are stored as, by the names of ONNX; "float8e4m3fn" has no zero point."""
Sparsity = Literal["unstructured", "2:4"]
"""Where a weight's zeros may lie: anywhere, or two or more among every four that follow each other along its inputs."""
Sense = Literal["<=", ">=", "=="]
Decide = Literal["point", "proven_kept", "unless_proven_broken"]
"""How a limit is held against a measurement that has a confidence interval.

point: the estimate itself keeps the limit. proven_kept: the end of the interval on the bad side does, so the limit is
kept with the confidence asked for. unless_proven_broken: the end on the good side does, so only a proven loss fails.
"""


class AvcompressError(Exception):
    """Anything the user can mend; printed as one line, never as a traceback."""

    exit_code = 2


class RecipeError(AvcompressError):
    """A recipe or an argument is wrong."""


class DataError(AvcompressError):
    """Images, labels or a calibration set are wrong."""


class ModelError(AvcompressError):
    """The user's network cannot be read, run or exported."""


class EngineError(AvcompressError):
    """A backend refused or failed."""


class EngineBuildError(EngineError):
    """A backend could not build an engine.

    Attributes:
        stage: parse, profile, configure, calibrate, build or load.
        node: of the network, where the backend names one.
        remedy: what to do, as the message ends.
    """

    def __init__(self, stage: str, message: str, node: str = "", remedy: str = "") -> None:
        super().__init__(f"{stage}: {message}")
        self.message = message
        self.stage = stage
        self.node = node
        self.remedy = remedy or message.rpartition("; ")[2]

    def __reduce__(self) -> tuple[type[EngineBuildError], tuple[str, str, str, str]]:
        # Else it is made anew from its one text, which fails in the process that waits for it.
        return type(self), (self.stage, self.message, self.node, self.remedy)


class PeerError(AvcompressError):
    """Another process of the same run ended; what it said tells why."""


class MissingError(AvcompressError):
    """This machine lacks something; the message holds the command that installs it."""

    exit_code = 3


class LateError(MissingError):
    """What was waited for has not come within its time."""


class OutputError(AvcompressError):
    """The output could not be written."""

    exit_code = 3


class Track(Protocol):
    """Wraps an iterable so that someone can watch it being consumed; never changes the items."""

    def __call__(self, items: Iterable[T], total: int | None = None) -> Iterable[T]:
        """Yield the same items; `total` is their number where it is known."""
        ...


def untracked(items: Iterable[T], total: int | None = None) -> Iterable[T]:  # noqa: ARG001
    """Yield the items: the Track that nobody watches."""
    return items


@dataclass(frozen=True)
class TensorRange:
    """A fact about data: the interval a tensor covers; per channel where `axis` is set.

    One value per tensor, or one per channel along `axis`. Raises ValueError when empty, unordered or not finite.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        if not self.low or len(self.low) != len(self.high):
            raise ValueError(f"range: expected as many lows as highs, got {len(self.low)} and {len(self.high)}")
        if not all(np.isfinite((*self.low, *self.high))) or any(
            a > b for a, b in zip(self.low, self.high, strict=True)
        ):
            raise ValueError(f"range: expected finite low <= high, got {self.low} .. {self.high}")


@dataclass(frozen=True)
class QuantParams:
    """A decision about hardware: real = (q - zero_point) * scale, q saturated to `dtype`.

    One scale per tensor, or one per channel along `axis`. With `block_size` (2-D weights only), one for each run of so
    many values along `axis`, in row-major order of the scales' own shape. Source: ONNX QuantizeLinear.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    dtype: QDtype = "int8"
    axis: int | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        if not self.scale or len(self.scale) != len(self.zero_point):
            raise ValueError("expected as many scales as zero points, at least one")
        if not all(np.isfinite(s) and s > 0 for s in self.scale):
            raise ValueError(f"expected finite scales above zero, got {min(self.scale)}")


@dataclass(frozen=True)
class LayerPlan:
    """What the recipe expects of one weighted layer: its precision, and why."""

    name: str
    op: str
    precision: Precision
    reason: str
    macs: int


@dataclass(frozen=True)
class Artifact:
    """What a stage receives and returns: a network and what has been decided about it.

    Attributes:
        model: a torch.nn.Module until it is exported, an onnx.ModelProto from then on.
        qparams: the quantization parameters by tensor name.
        layers: the precision of every weighted layer, in graph order; empty until quantized.
        log: one line for each thing done, for people.
        reference: the float onnx.ModelProto that `model` was quantized from, its tensors of the same names; None until
            quantized. Methods that repair a quantized network hold it against this one.
        sparse: the pattern of zeros in each weight that was made sparse, by the name of its constant in the float
            network. They stay 0 in whatever is done to it.
        trained: `reference` with what the quantized network has learned, before it was rounded; None until it is
            trained quantized.
    """

    model: Any
    qparams: Mapping[str, QuantParams] = field(default_factory=dict)
    layers: tuple[LayerPlan, ...] = ()
    log: tuple[str, ...] = ()
    reference: Any = None
    sparse: Mapping[str, Sparsity] = field(default_factory=dict)
    trained: Any = None


@dataclass(frozen=True)
class Check:
    """One line of a contract held against one measurement; NaN never passes.

    Attributes:
        low: the lower end of the measurement's confidence interval; None where it has none.
        high: the upper end.
        decide: which of the three must keep the limit.
        note: why it could not be measured, or what broke it; empty where there is nothing to add.
        engine: that it is about; empty where it is about none.
        metric, slice: of accuracy, what was measured where; an empty slice is everywhere.
        domain: of an update, whose images it was measured on, beside the version before it; empty elsewhere.
    """

    name: str
    measured: float
    sense: Sense
    limit: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    decide: Decide = "point"
    note: str = ""
    engine: str = ""
    metric: str = ""
    slice: str = ""
    domain: str = ""

    @property
    def judged(self) -> float:
        """The value that must keep the limit; NaN where the interval that `decide` asks for is not there."""
        if self.decide == "point" or self.sense == "==":
            return self.measured
        lower = (self.decide == "proven_kept") == (self.sense == ">=")
        end = self.low if lower else self.high
        return math.nan if end is None else end

    @property
    def passed(self) -> bool:
        """Whether the judged value keeps the limit; a measurement of NaN never does, whatever its interval."""
        if math.isnan(self.measured):
            return False
        match self.sense:
            case "<=":
                return bool(self.judged <= self.limit)
            case ">=":
                return bool(self.judged >= self.limit)
            case "==":
                return bool(self.judged == self.limit)


def check_text(check: Check) -> str:
    """What a check expected and what was measured, in one line."""
    expected = f"expected {check.sense} {_figure(check.limit, check)}"
    if math.isnan(check.measured):
        return f"{expected} {check.unit}".rstrip() + ", not measured"
    ends = (check.low, check.high)
    between = " [" + ", ".join("?" if end is None else _figure(end, check) for end in ends) + "]"
    text = f"{expected}, measured {_figure(check.measured, check)}{between if any(e is not None for e in ends) else ''}"
    rule = "" if check.decide == "point" else f", {_figure(check.judged, check)} decides ({check.decide})"
    return f"{text} {check.unit}".rstrip() + rule


def _figure(value: float, check: Check) -> str:
    if check.sense == "==":
        return f"{value:.0f}"
    return f"{value:.4g}" if check.unit else f"{value:.4f}"


@dataclass(frozen=True)
class Verdict:
    """The contract, line by line."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """False when nothing was checked."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The lines that are not kept."""
        return tuple(check for check in self.checks if not check.passed)
