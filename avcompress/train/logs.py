"""What a training says of its steps to TensorBoard or MLflow; both are optional."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from avcompress.spec import MissingError

Kind = Literal["tensorboard", "mlflow"]
Write = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its values by name."""


def require_log(kind: Kind) -> None:
    """Raise MissingError where the package of a log is not installed."""
    if importlib.util.find_spec(kind) is None:
        raise MissingError(f'log: expected {kind}, got none installed; pip install "avcompress[{kind}]"')


@contextlib.contextmanager
def opened_log(kind: Kind, folder: Path, name: str) -> Iterator[Write]:
    """Yield what writes into a folder until the block ends.

    TensorBoard's files lie in `folder/name`. MLflow writes to its tracking server where one is set, else into
    `folder/mlflow.db`.
    """
    require_log(kind)
    with _tensorboard(folder / name) if kind == "tensorboard" else _mlflow(folder, name) as write:
        yield write


@contextlib.contextmanager
def _tensorboard(folder: Path) -> Iterator[Write]:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = None

    def write(step: int, values: Mapping[str, float]) -> None:
        nonlocal writer
        if writer is None:  # what a killed run wrote beyond the checkpoint that is gone on from does not count
            writer = SummaryWriter(str(folder), purge_step=step)
        for key, value in values.items():
            writer.add_scalar(key.replace(" ", "_"), value, step)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


@contextlib.contextmanager
def _mlflow(folder: Path, name: str) -> Iterator[Write]:
    mlflow = importlib.import_module("mlflow")
    if not mlflow.is_tracking_uri_set():
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    with mlflow.start_run(run_name=name):
        yield lambda step, values: mlflow.log_metrics(dict(values), step=step)
