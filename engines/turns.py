"""What networks and engines take, run in turns: the machine's moods meet all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from avcompress.recipe import Engine, OpenVinoEngine, OrtEngine
from avcompress.spec import Array
from engines.build import build_engine, open_engine
from engines.network import network_inputs
from engines.session import Session

Clock = Callable[[Sequence[onnx.ModelProto]], tuple[float, ...]]
"""Milliseconds that one run of each network takes, of all of them measured together."""
Timer = Callable[[], float]
"""Reads seconds."""


@dataclass(frozen=True)
class Turns:
    """How often each is run, one after the other.

    Attributes:
        warmup: runs of each that do not count.
        least: runs of each, at least.
        seconds: of all runs of one of them, at least.
        most: runs of each, at most.
    """

    warmup: int = 3
    least: int = 15
    seconds: float = 0.3
    most: int = 1000


USUAL = Turns()
NETWORK, ENGINE = "model.onnx", "engine"
_QUANTILE = 0.1
"""Of the runs: what disturbs a run only ever makes it longer, so that the fast ones tell more of the network."""


def engine_clock(engine: Engine, turns: Turns = USUAL) -> Clock:
    """A clock that builds networks for an engine and runs them on random inputs.

    It raises MissingError where this machine lacks the engine, EngineError where that refuses a network.
    """

    def clock(networks: Sequence[onnx.ModelProto]) -> tuple[float, ...]:
        with TemporaryDirectory() as folder:
            places = [built(network, Path(folder) / str(n), engine) / ENGINE for n, network in enumerate(networks)]
            return engines_ms(places, engine, [random_inputs(network) for network in networks], turns)

    return clock


def built(network: onnx.ModelProto, place: Path, engine: Engine) -> Path:
    """A new folder with a network, NETWORK, and the engine that is built of it, ENGINE."""
    place.mkdir()
    onnx.save(network, place / NETWORK)
    build_engine(place / NETWORK, place / ENGINE, engine)
    return place


def engines_ms(
    places: Sequence[Path], engine: Engine, inputs: Sequence[Mapping[str, Array]], turns: Turns = USUAL
) -> tuple[float, ...]:
    """Milliseconds that one run of each of several built engines takes."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_engine(place, engine)) for place in places]
        return _in_turns(sessions, inputs, turns, timer_of(engine))


def timer_of(engine: Engine) -> Timer:
    """The time that the CPU spends on this process, where one of its threads computes; else the time that passes.

    Other work on the machine then counts for nothing but the caches and memory that it shares.
    """
    cpu = OrtEngine.model_fields["providers"].default
    on_cpu = isinstance(engine, OpenVinoEngine) or (isinstance(engine, OrtEngine) and engine.providers == cpu)
    alone = on_cpu and getattr(engine, "threads", None) == 1
    return time.process_time if alone else time.perf_counter


def random_inputs(network: onnx.ModelProto) -> Mapping[str, Array]:
    """One image of noise for each input."""
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in network_inputs(network).items()}


def _in_turns(
    sessions: Sequence[Session], inputs: Sequence[Mapping[str, Array]], turns: Turns, timer: Timer = time.perf_counter
) -> tuple[float, ...]:
    pairs = list(zip(sessions, inputs, strict=True))
    for session, values in pairs:
        for _ in range(turns.warmup):
            session.run(values)
    samples: list[list[float]] = [[] for _ in pairs]
    spent, turn = 0.0, 0
    while turn < turns.most and (turn < turns.least or spent < turns.seconds * len(pairs)):
        # Each turn begins with another network: none always follows the same one.
        for number in (turn + step for step in range(len(pairs))):
            session, values = pairs[number % len(pairs)]
            start = timer()
            session.run(values)
            taken = timer() - start
            samples[number % len(pairs)].append(taken)
            spent += taken
        turn += 1
    return tuple(float(np.quantile(taken, _QUANTILE)) * 1000 for taken in samples)
