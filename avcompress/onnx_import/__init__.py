"""From an ONNX network to a trainable torch.fx GraphModule, one call for each node."""

from avcompress.onnx_import.graph import import_onnx

__all__ = ["import_onnx"]
