"""One quantized network in the dialect that each TensorRT reads: strong, weak, or implicit for DLA."""

from engines.dialects.dialect import Dialect, DialectSettings, Expressed, express

__all__ = ["Dialect", "DialectSettings", "Expressed", "express"]
