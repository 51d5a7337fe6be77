"""From an ONNX network to a trainable torch.fx GraphModule, one call for each node, and back."""

from avcompress.onnx_import.graph import import_onnx
from avcompress.onnx_import.write_back import write_back

__all__ = ["import_onnx", "write_back"]
