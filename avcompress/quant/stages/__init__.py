"""The stages of a recipe that work on an ONNX network, one a file."""
