"""Serving a bundle in a vehicle stack; never imports torch."""
