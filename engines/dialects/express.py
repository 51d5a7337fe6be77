"""One quantized network, written for the TensorRT at hand."""

from __future__ import annotations

import onnx
from typing_extensions import assert_never

from engines.dialects.dialect import DialectSettings, Expressed
from engines.dialects.dla_implicit import express_dla_implicit
from engines.dialects.strong import express_strong
from engines.dialects.weak import express_weak


def express(model: onnx.ModelProto, settings: DialectSettings) -> Expressed:
    """Write a quantized network in a dialect; equal inputs give equal bytes.

    Args:
        model: with explicit Q/DQ, of this suite or another tool; float networks go through, too.
        settings: the dialect, and what it needs to know.

    Raises ModelError in one line for what the target would refuse or silently compute otherwise.
    """
    match settings.dialect:
        case "strong":
            return express_strong(model, settings)
        case "weak":
            return express_weak(model, settings)
        case "dla-implicit":
            return express_dla_implicit(model, settings)
        case _:
            assert_never(settings.dialect)
