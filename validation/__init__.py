"""Measurements of accuracy and latency, the verdict and the report; never imports torch."""
