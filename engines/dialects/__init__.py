"""One quantized network in the dialect that each TensorRT reads: strong, weak, or implicit for DLA."""

from engines.dialects.dialect import Dialect, DialectSettings, Expressed
from engines.dialects.express import express
from engines.dialects.prepare import read_quantized

__all__ = ["Dialect", "DialectSettings", "Expressed", "express", "read_quantized"]
