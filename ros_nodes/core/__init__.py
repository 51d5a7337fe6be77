"""A bundle served to cameras, with its contract watched: everything but the transport; NumPy and a runtime."""
