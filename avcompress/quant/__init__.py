"""Quantization: where, with which ranges, and how it enters the graph."""
