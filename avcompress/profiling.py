"""From an ONNX file to the times of its layers in each precision, on this machine: what `avcompress profile` does.

Times depend on the structure of a network, not on what it sees: ranges are taken from noise, and no image is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from avcompress.quant.plan import prepare
from avcompress.recipe import Engine, OpenVinoEngine, OrtEngine, Ptq
from avcompress.search.formats import formats_of
from avcompress.search.latency.measured import Measured
from avcompress.search.latency.source import Subject
from avcompress.search.latency.table import PrecisionTable, save_table
from avcompress.spec import Artifact, MissingError, Precision
from avcompress.watch import Watch
from engines.build import require
from engines.onnx_load import load_onnx
from engines.turns import random_inputs


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        engine: of this machine.
        precisions: beside FP32.
        seconds: that each network is run.
    """

    engine: Engine
    precisions: Sequence[Precision]
    seconds: float


def profile_file(path: Path, size: tuple[int, int] | None, asked: Asked, out: Path, watch: Watch) -> PrecisionTable:
    """Measure a float network, and write the table.

    Args:
        path: of the ONNX file.
        size: height and width of a dynamic input.
        asked: on what, and in which precisions.
        out: of the JSON file.
        watch: follows the two steps.

    Raises ModelError for the network, MissingError without SciPy or the engine, EngineError where that refuses it,
    DataError where it takes no part of the network in a precision.
    """
    if find_spec("scipy") is None:
        raise MissingError('profile: expected scipy, got none installed; pip install "avcompress[train]"')
    engine = asked.engine
    require(engine)
    model = prepare(load_onnx(path, size))
    watch.begin(2)
    with watch.step("quantize", reused=False):
        rules = "cpu" if isinstance(engine, OpenVinoEngine | OrtEngine) else "tensorrt"
        settings = Ptq(kind="ptq", rules=rules, ranges="minmax")
        formats = formats_of(Artifact(model), ["fp32", *asked.precisions], settings, [random_inputs(model)])
    with watch.step(f"build and time on {engine.backend}", reused=False, still=True) as track:
        subject = Subject(formats.model, formats.layout, formats.choices, formats.assigned)
        table = Measured(engine, seconds=asked.seconds, track=track).table(subject)
    save_table(table, out)
    return table
