"""The options by which commands are told which bundles to take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engines.bundle import Trust

PublicKeys = Annotated[
    list[Path] | None, typer.Option("--key", help="Public key that may have signed it; several for several signers.")
]
AllowUnsigned = Annotated[
    bool, typer.Option("--allow-unsigned", help="Take a bundle that nobody vouches for: its engine is code that runs.")
]


def bundle_trust(keys: list[Path] | None, allow_unsigned: bool) -> Trust:
    """Which bundles are taken; none without a key or `allow_unsigned`."""
    from engines.bundle import Trust
    from engines.signing import load_public_key

    return Trust(tuple(load_public_key(path) for path in keys or ()), allow_unsigned)
