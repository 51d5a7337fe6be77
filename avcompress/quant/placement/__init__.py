"""Where a network is quantized: one policy, and its views of ONNX and torch.fx graphs."""
