"""What a network reaches on the images that choices are made by, on one engine: metric, movement, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import onnx

from avcompress.judging.measuring import accuracy
from avcompress.quant.observe import network_digest
from avcompress.recipe import Engine, Recipe
from avcompress.running.bench import Bench
from avcompress.running.choosing import few
from avcompress.search.cache import Cache
from avcompress.search.verify import Outcome
from avcompress.spec import Array, Artifact
from avcompress.state import step_key
from avcompress.trial import Trial, trial_of
from calibration.preprocess import preprocess
from calibration.sample import Source
from calibration.source import open_source
from engines.build import open_engine
from engines.session import Session
from engines.turns import ENGINE, Turns, built, engines_ms, random_inputs
from validation.machine import runtime_versions
from validation.truth import Truth, read_truth

if TYPE_CHECKING:
    from torch import Tensor

_MOVED = 64
"""Calibration images that tell how far answers are moved."""
_TURNS = Turns(seconds=1.0)


Answer = list["Tensor"]
"""What a network says to one image: all its outputs."""


class Reached(NamedTuple):
    """Of one network: its metric, and its answers on a few images."""

    metric: float
    network: onnx.ModelProto
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Judge:
    """Measures networks; what was measured once is in the cache.

    Attributes:
        bench: its selection images tell the metric, its calibration images the movement.
        engine: of this machine, on which networks are run.
        metric: by its name; None: nobody asks for one, and it is 0.
        cache: of metrics.
    """

    bench: Bench
    engine: Engine
    metric: str | None
    cache: Cache

    def __call__(self, network: onnx.ModelProto) -> Reached:
        """Of the network that others are held against."""
        with TemporaryDirectory() as folder:
            return self._reached(network, built(network, Path(folder) / "network", self.engine) / ENGINE)

    def beside(self, before: Reached, made: Artifact) -> Outcome:
        """Of a network made of it: what the metric falls, how far its answers move, what it takes."""
        with TemporaryDirectory() as folder:
            places = [
                built(network, Path(folder) / str(number), self.engine) / ENGINE
                for number, network in enumerate((before.network, made.model))
            ]
            reached = self._reached(made.model, places[1])
            inputs = random_inputs(before.network)
            _, after_ms = engines_ms(places, self.engine, [inputs, inputs], _TURNS)
        return Outcome(before.metric - reached.metric, after_ms, self._movement(before, reached.answers))

    def moved(self, before: Reached, made: Artifact) -> float:
        """How far the answers of a network made of it are from its own."""
        key = step_key("moved", network_digest(before.network), *self._known(made.model, self.bench.calibration))
        known = self.cache.get(key)
        if known is not None:
            return float(known)
        with TemporaryDirectory() as folder:
            place = built(made.model, Path(folder) / "network", self.engine) / ENGINE
            with open_engine(place, self.engine) as session:
                found = self._movement(before, self._answers(session, made.model))
        self.cache.put(key, found)
        return found

    def _known(self, network: onnx.ModelProto, source: Source) -> list[Any]:
        """What decides a network's answers to some images, and what is made of them."""
        recipe = self.bench.recipe
        settings = (recipe.task.model_dump(), recipe.preprocess.model_dump(), self.engine.model_dump())
        return [network_digest(network), source.fingerprint, settings, self.bench.classes, runtime_versions()]

    def _movement(self, before: Reached, answers: Sequence[Answer]) -> float:
        """Squared, the mean over images: in the units of `sensitivity: output`."""
        from avcompress.distill.movement import movement, moves_of

        moves = moves_of(self.bench.recipe.task, self.bench.recipe.preprocess.size)
        pairs = zip(before.answers, answers, strict=True)
        return sum(movement(moves, one, other) for one, other in pairs) / len(answers)

    def _answers(self, session: Session, network: onnx.ModelProto) -> list[Answer]:
        import torch

        names, (source,) = [output.name for output in network.graph.output], session.inputs
        found = (session.run({source: image}) for image in self._images)
        return [[torch.from_numpy(answer[name]) for name in names] for answer in found]

    def _reached(self, network: onnx.ModelProto, place: Path) -> Reached:
        recipe, source = self.bench.recipe, self.bench.selection
        key = step_key("judged", self.metric, *self._known(network, source))
        metric = 0.0 if self.metric is None else self.cache.get(key)
        with open_engine(place, self.engine) as session:
            answers = self._answers(session, network)
            if metric is None and self.metric is not None:
                trial = trial_of(recipe, self.bench.classes, source)
                metric = accuracy(trial, session, source, self._truth)[self.metric]
                self.cache.put(key, metric)
        return Reached(float(metric), network, answers)

    @cached_property
    def _images(self) -> list[Array]:
        settings = self.bench.recipe.preprocess
        samples = islice(few(self.bench.calibration, _MOVED), _MOVED)
        return [preprocess(sample.image, settings)[0] for sample in samples]

    @cached_property
    def _truth(self) -> Truth:
        return read_truth(self.bench.selection)


@dataclass(frozen=True)
class Scorer:
    """The metric of a network on the selection images, for any process of this machine: it opens them itself.

    Attributes:
        recipe, data_root: where the images are, and what is asked of them.
        classes: of the labels.
        engine: that networks are built for.
        metric: by its name.
    """

    recipe: Recipe
    data_root: Path
    classes: tuple[str, ...]
    engine: Engine
    metric: str

    def __call__(self, network: onnx.ModelProto) -> float:
        """Higher is better."""
        trial, truth = self._tried
        with TemporaryDirectory() as folder:
            place = built(network, Path(folder) / "network", self.engine) / ENGINE
            with open_engine(place, self.engine) as session:
                return float(accuracy(trial, session, trial.source, truth)[self.metric])

    @cached_property
    def _tried(self) -> tuple[Trial, Truth]:
        data = self.recipe.data
        source = open_source(data.selection or data.validation, self.data_root, self.classes)
        return trial_of(self.recipe, self.classes, source), read_truth(source)

    def __getstate__(self) -> dict[str, Any]:
        # Open images are not sent: they are read by functions that cannot be.
        return {each.name: getattr(self, each.name) for each in fields(self)}
