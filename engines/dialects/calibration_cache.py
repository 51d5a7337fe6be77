"""TensorRT's calibration cache: a text file with one scale a tensor, for implicit INT8.

The first line names the version and the calibrator, as `TRT-8601-EntropyCalibration2`; every other one is
`tensor: 3c010a14`, the tensor's scale as the eight hexadecimal digits of a float32, the most significant first.

Source: files that TensorRT 7 and 8 wrote; NVIDIA Deep-Learning-Accelerator-SW, tools/qdq-translator.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from avcompress.spec import DataError

_HEADER = re.compile(r"TRT-(\d{3,7})-(EntropyCalibration2?|MinMaxCalibration|LegacyCalibration)")
# A tensor's name may hold colons: the last one ends it. TensorRT writes no leading zeros.
_LINE = re.compile(r"(.+): ?([0-9a-fA-F]{1,8})")
_VERSION = re.compile(r"(\d{1,2})\.(\d{1,2})(?:\.(\d{1,2}))?(?:\.\d+)?")
_LARGEST_BYTES = 1 << 26
_SHOWN = 60  # characters of a bad line


@dataclass(frozen=True)
class CalibrationCache:
    """The scales of tensors by name, in the order of the file; float32, finite, above zero.

    Attributes:
        version: TensorRT's, as it writes it: "8601" is 8.6.1, "100300" is 10.3.0.
        scales: real = scale * integer.
        algorithm: the calibrator that TensorRT asks such a file of.
    """

    version: str
    scales: Mapping[str, float]
    algorithm: str = "EntropyCalibration2"


def version_number(version: str) -> str:
    """The number of a version, as "8.6.1", in the first line of a cache; raises DataError.

    A TensorRT whose number is another one takes the file for another calibrator's, and asks for images.
    Source: NV_TENSORRT_VERSION in NvInferVersion.h: MAJOR * 1000 + MINOR * 100 + PATCH up to 9, MAJOR * 10000 from 10.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise DataError(f"TensorRT version: expected one as 8.6.1, got {version!r}; name the target's own")
    major, minor, patch = (int(part or 0) for part in match.groups())
    return str(major * (10000 if major >= 10 else 1000) + minor * 100 + patch)


def write_cache(cache: CalibrationCache) -> bytes:
    """The content of the file; raises DataError for names and scales that it cannot hold."""
    header = f"TRT-{cache.version}-{cache.algorithm}"
    if _HEADER.fullmatch(header) is None:
        raise DataError(f"calibration cache: expected a version as 8601 and a calibrator, got {header!r}; mend both")
    return "\n".join([header, *(_line(name, scale) for name, scale in cache.scales.items()), ""]).encode()


def _line(name: str, scale: float) -> str:
    if not name.isprintable() or not name.strip():
        raise DataError(f"calibration cache: expected a tensor's name that fits on a line, got {name!r}; rename it")
    with np.errstate(over="ignore"):
        value = np.float32(scale)
    if not np.isfinite(value) or value <= 0:
        raise DataError(
            f"calibration cache: tensor {name!r}: expected a float32 scale above zero, got {scale}; calibrate it again"
        )
    return f"{name}: {struct.pack('>f', value).hex()}"


def read_cache(content: bytes) -> CalibrationCache:
    """Read a cache, TensorRT's own or one that `write_cache` made; raises DataError with the line that is wrong."""
    if len(content) > _LARGEST_BYTES:
        raise DataError(
            f"calibration cache: expected {_LARGEST_BYTES >> 20} MB at most, got {len(content) >> 20} MB; "
            "is it another file?"
        )
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"calibration cache: expected text in UTF-8, got byte {error.start} of something else; is it another file?"
        ) from error
    header = _HEADER.fullmatch(lines[0].rstrip("\r"))
    if header is None:
        raise DataError(
            f"calibration cache, line 1: expected TRT-<version>-EntropyCalibration2, got {lines[0][:_SHOWN]!r}; "
            "is it another file?"
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            name, scale = _parsed(number, line.rstrip("\r"))
            if name in scales:
                raise DataError(
                    f"calibration cache, line {number}: expected each tensor once, got {name!r} again; keep one"
                )
            scales[name] = scale
    return CalibrationCache(header[1], scales, header[2])


def _parsed(number: int, line: str) -> tuple[str, float]:
    match = _LINE.fullmatch(line)
    if match is None or not match[1].isprintable() or not match[1].strip():
        raise DataError(
            f"calibration cache, line {number}: expected `tensor: ` and up to eight hexadecimal digits, "
            f"got {line[:_SHOWN]!r}; write the file again"
        )
    (scale,) = struct.unpack(">f", bytes.fromhex(match[2].zfill(8)))
    if not np.isfinite(scale) or scale <= 0:
        raise DataError(
            f"calibration cache, line {number}: tensor {match[1][:_SHOWN]!r}: expected a scale above zero, got "
            f"{scale}; calibrate it again, or leave it out"
        )
    return match[1], float(scale)
