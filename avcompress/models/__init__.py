"""Reference networks in plain torch, and loading a user's own.

`detector` and `segmenter` are factories for recipes (`avcompress.models:detector`); torch is imported when one of them
is asked for, so that the rest of the suite can import this package without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avcompress.models.detection import detector as detector
    from avcompress.models.segmentation import segmenter as segmenter

__all__ = ["detector", "segmenter"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from avcompress.models.detection import detector
    from avcompress.models.segmentation import segmenter

    return detector if name == "detector" else segmenter
