"""The processes of one run: one alone, or several that torchrun started, and how they agree.

All go through the same steps; the first one leads: it decides, writes and speaks. Alone, torch is not imported.
Source: torch.distributed, environment variables of torchrun.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from avcompress.spec import PeerError

if TYPE_CHECKING:
    from torch import Tensor

_PATIENCE = timedelta(days=7)
"""How long a process waits for the others: the first one may measure for hours. A lost one is noticed at once."""


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun started until the block ends; alone, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # That every parameter has a gradient is no mistake: which loss leaves some out is not known beforehand.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with listening():
        torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    finally:
        part()


def part() -> None:
    """Go on alone."""
    group = _group()
    if group is not None:
        group.destroy_process_group()


def _group() -> Any:
    """torch.distributed while the processes are joined, else None."""
    torch = sys.modules.get("torch")
    joint = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed if torch is not None and joint else None


def count() -> int:
    """How many processes there are."""
    group = _group()
    return 1 if group is None else int(group.get_world_size())


def rank() -> int:
    """Which of them this one is, from 0."""
    group = _group()
    return 0 if group is None else int(group.get_rank())


def local_rank() -> int:
    """Which of this machine's processes this one is: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _group() else 0


def leads() -> bool:
    """Whether this process decides, writes and speaks."""
    return rank() == 0


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Raise PeerError where torch says that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if _group() is None or not any(word in text for word in ("onnection", "gloo", "NCCL", "peer", "socket")):
            raise
        raise PeerError(
            f"process {rank()} of {count()}: expected all of them to go on, got one that ended; see what it says"
        ) from error


def wait() -> None:
    """Wait until all processes have come here."""
    group = _group()
    if group is not None:
        import torch

        with listening():
            group.all_reduce(torch.zeros(1))


def agreed(value: float) -> float:
    """What the first process says."""
    group = _group()
    if group is None:
        return value
    import torch

    said = torch.tensor([value], dtype=torch.float64)
    with listening():
        group.broadcast(said, src=0)
    return float(said)


def total(value: Tensor) -> Tensor:
    """The sum over the processes, without a gradient; alone, the value itself."""
    group = _group()
    if group is None:
        return value
    summed = value.detach().clone()
    with listening():
        group.all_reduce(summed)
    return summed


def mean(value: Tensor) -> Tensor:
    """The mean over the processes, without a gradient; alone, the value itself."""
    return value if _group() is None else total(value) / count()


def divisor(amount: Tensor, least: float) -> Tensor:
    """What a loss divides by that is a sum over an amount of things, which differs between processes.

    The whole batch's amount, at least `least`, for each process: the gradients, which are averaged over the processes,
    are then those of one process with the whole batch.
    """
    return total(amount).clamp(min=least) / count()
