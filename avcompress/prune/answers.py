"""What a network says to images, or why it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from avcompress.spec import ModelError


def answers(run: Callable[[Tensor], Any], inputs: Tensor, where: str) -> Any:
    """What a network returns; raises ModelError, from `where`, if it does not take these inputs."""
    try:
        return run(inputs)
    except Exception as error:  # whatever its functions raise
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ModelError(
            f"{where}: expected the network to take images {tuple(inputs.shape)}, got {got}; one that was exported "
            "for a single image may want batches of one"
        ) from error
