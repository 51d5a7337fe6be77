"""Pruning for a latency: what widths take, measured, and the least importance lost for a deadline."""
