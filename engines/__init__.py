"""From an ONNX graph to engines and sessions; never imports torch."""
