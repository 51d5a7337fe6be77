"""TensorBoard and MLflow: what they are told, and what is said where they are not installed."""

import importlib.util
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from avcompress.spec import MissingError
from avcompress.train.logs import opened_log


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with (
        pytest.raises(MissingError, match=rf'expected {kind}, got none installed; pip install "avcompress\[{kind}\]"'),
        opened_log(kind, tmp_path, "0-train"),
    ):
        pass


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with opened_log("tensorboard", tmp_path, "0-train") as write:
        write(3, {"loss": 0.5, "learning rate": 0.1})
        write(4, {"loss": 0.25, "learning rate": 0.1})

    found = EventAccumulator(str(tmp_path / "0-train"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(3, 0.5), (4, 0.25)]


def test_mlflow_is_told_of_every_step_and_of_a_place_where_it_has_none(tmp_path, monkeypatch):
    told: list[object] = []

    @contextmanager
    def start_run(run_name):
        told.append(run_name)
        yield

    fake = SimpleNamespace(
        is_tracking_uri_set=lambda: False,
        set_tracking_uri=told.append,
        start_run=start_run,
        log_metrics=lambda values, step: told.append((step, values)),
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(importlib, "import_module", lambda _: fake)

    with opened_log("mlflow", tmp_path / "logs", "0-train") as write:
        write(3, {"loss": 0.5})

    assert told == [f"sqlite:///{tmp_path}/logs/mlflow.db", "0-train", (3, {"loss": 0.5})]
