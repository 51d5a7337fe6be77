"""Statistics as a file: a line that says what it is, a checksum, facts as JSON, arrays; equal statistics, equal bytes.

Nothing in it is executed when it is read, and what was cut off or changed on the way is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avcompress.files import write_atomically
from avcompress.spec import Array, DataError
from calibration.histogram import BINS, HIGHEST_EXPONENT, LOWEST_EXPONENT, Histogram
from calibration.statistics import WINDOW, Drive, Image, Statistics, TensorStatistics

VERSION = 1
_MAGIC = b"avcompress calibration statistics, version "
_COUNTS = ("<u1", "<u2", "<u4", "<u8")
_DIGEST_SIZE = 32
_LONGEST_VERSION = 9  # digits


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Tensor(_Facts):
    """A histogram without the empty bins at both ends; its counts as the smallest integers that hold them."""

    name: str
    exponent: int = Field(ge=LOWEST_EXPONENT, le=HIGHEST_EXPONENT)
    low: float
    high: float
    first: int = Field(ge=0, lt=2 * BINS - 1)
    bins: int = Field(ge=1, lt=2 * BINS)
    size: int = Field(ge=0, le=3)


class _Header(_Facts):
    network: str
    preprocess: str
    images: list[Image] = Field(min_length=1)
    tensors: list[_Tensor]
    drives: list[Drive] = Field(default_factory=list)
    figures: list[str] = Field(default_factory=list)


def save_statistics(found: Statistics, path: Path) -> None:
    """Write statistics to a file, whole or not at all; raises OutputError."""
    write_atomically(path, to_bytes(found))


def load_statistics(path: Path) -> Statistics:
    """Read what save_statistics wrote; raises DataError in one line naming the file."""
    try:
        return from_bytes(path.read_bytes())
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: expected a readable file of statistics, got {reason}; check the path") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def holds_statistics(path: Path) -> bool:
    """Whether a file says that it is one of statistics, or is empty; raises DataError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) in {_MAGIC, b""}
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {error.strerror}; give another path") from error


def to_bytes(found: Statistics) -> bytes:
    """The content of a file of statistics."""
    facts: list[_Tensor] = []
    arrays: list[Array] = []
    for name, tensor in sorted(found.tensors.items()):
        hist = tensor.histogram
        filled = np.flatnonzero(hist.counts)
        counts = hist.counts[filled[0] : filled[-1] + 1]
        size = next(i for i, kind in enumerate(_COUNTS) if counts.max() <= np.iinfo(kind).max)
        arrays += [counts.astype(_COUNTS[size]), tensor.extremes.astype("<f4")]
        facts.append(
            _Tensor(
                name=name,
                exponent=hist.exponent,
                low=hist.low,
                high=hist.high,
                first=int(filled[0]),
                bins=len(counts),
                size=size,
            )
        )
    header = _Header(
        network=found.network,
        preprocess=found.preprocess,
        images=list(found.images),
        tensors=facts,
        drives=list(found.drives),
        figures=sorted(found.figures),
    )
    arrays += [found.figures[name].astype("<f4") for name in header.figures]
    # Without drives and figures as before there were any.
    empty = {key for key in ("drives", "figures") if not getattr(header, key)}
    text = header.model_dump_json(exclude=empty).encode()
    content = b"".join([len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in arrays)])
    return b"%s%d\n" % (_MAGIC, VERSION) + hashlib.sha256(content).digest() + content


def from_bytes(data: bytes) -> Statistics:
    """What to_bytes was given; raises DataError for anything else."""
    first, _, rest = data.partition(b"\n")
    version = first.removeprefix(_MAGIC)
    if not first.startswith(_MAGIC) or not version.isdigit() or len(version) > _LONGEST_VERSION:
        raise DataError("expected statistics of `avcompress calibrate`, got something else; check the path")
    if int(version) != VERSION:
        raise DataError(
            f"expected statistics of version {VERSION}, got version {int(version)}; "
            "collect them again with this avcompress"
        )
    digest, content = rest[:_DIGEST_SIZE], rest[_DIGEST_SIZE:]
    if hashlib.sha256(content).digest() != digest:
        raise DataError("expected whole statistics, got a truncated or damaged file; copy it again")
    try:
        return _parsed(content)
    except (ValidationError, ValueError) as error:
        raise DataError(
            f"expected statistics that fit together, got {type(error).__name__}; collect them again"
        ) from error


def _parsed(content: bytes) -> Statistics:
    length = 8 + int.from_bytes(content[:8], "little")
    header = _Header.model_validate_json(content[8:length])
    shown = min(len(header.images), WINDOW)
    end = len(content) - 4 * shown * len(header.figures)
    arrays = _arrays(header, content[length:end])
    figures = np.frombuffer(content[end:], "<f4").astype(np.float32).reshape(len(header.figures), shown)
    return Statistics(
        header.network,
        header.preprocess,
        tuple(header.images),
        {tensor.name: _tensor(tensor, next(arrays), next(arrays)) for tensor in header.tensors},
        tuple(header.drives),
        dict(zip(header.figures, figures, strict=True)),
    )


def _arrays(header: _Header, data: bytes) -> Iterator[Array]:
    """Two of each tensor; raises ValueError where the data are shorter or longer than the header says."""
    shown = min(len(header.images), WINDOW)
    kinds = [(t.bins, _COUNTS[t.size]) for t in header.tensors]
    sizes = [(np.dtype(kind).itemsize * bins, 8 * shown) for bins, kind in kinds]
    if sum(map(sum, sizes)) != len(data):
        raise ValueError("length")
    start = 0
    for (bins, kind), (size, _) in zip(kinds, sizes, strict=True):
        yield np.frombuffer(data, kind, bins, start)
        start += size
        yield np.frombuffer(data, "<f4", 2 * shown, start).reshape(shown, 2)
        start += 8 * shown


def _tensor(facts: _Tensor, counts: Array, extremes: NDArray[np.float32]) -> TensorStatistics:
    """Raises ValueError where the facts, the counts and the extremes contradict each other."""
    whole = np.zeros(2 * BINS - 1, np.int64)
    whole[facts.first : facts.first + facts.bins] = counts  # a ValueError where it does not fit
    if facts.low > facts.high or max(facts.high, -facts.low) > BINS * 2.0**facts.exponent:
        raise ValueError("range")
    if not np.isfinite(extremes).all() or whole.min() < 0 or not whole.any():
        raise ValueError("values")
    return TensorStatistics(Histogram(whole, facts.exponent, facts.low, facts.high), extremes.astype(np.float32))
