"""Reference networks in plain torch, and loading a user's own.

`detector` and `segmenter` are factories for recipes (`avcompress.models:detector`); torch is imported when one of them
is asked for, so that the rest of the suite can import this package without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avcompress.models.detector import detector as detector
    from avcompress.models.segmenter import segmenter as segmenter

__all__ = ["detector", "segmenter"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The submodules have the names of their factories: import from the file, and let the function win.
    from avcompress.models.detector import detector
    from avcompress.models.segmenter import segmenter

    globals().update(detector=detector, segmenter=segmenter)
    return globals()[name]
