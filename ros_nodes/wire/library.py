"""Cyclone DDS for Python, where it is installed, and how it is set up for images."""

from __future__ import annotations

from avcompress.spec import MissingError


def require_cyclonedds() -> None:
    """Raise MissingError without `cyclonedds`, which has no wheel for Linux on ARM: there, take rclpy."""
    try:
        import cyclonedds.idl  # noqa: F401
    except ImportError as error:
        raise MissingError(
            'wire: expected the package cyclonedds, got nothing of that name; pip install "avcompress[wire]", or use '
            "rclpy where there is no such wheel"
        ) from error
