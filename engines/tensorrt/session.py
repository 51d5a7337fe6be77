"""A TensorRT engine that runs: named arrays in, named arrays out.

One stream, one execution context; page-locked memory of fixed addresses on both sides, so that copies and inference
are one CUDA graph. Written for TensorRT 8.5 to 11 and TensorRT-RTX: only calls that all of them have.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Protocol

import numpy as np

from avcompress.spec import Array, EngineError, MissingError
from engines.session import InputSpec, check_inputs, closed, one_line
from engines.tensorrt.buffers import Buffer, close_all
from engines.tensorrt.cuda import Cuda, CudaError, open_cuda
from engines.tensorrt.graph import Repeated
from engines.tensorrt.load import Loaded, records_graphs
from engines.tensorrt.tensors import IoTensor, Shape, read_tensors, refuse_shape

Package = Literal["tensorrt", "tensorrt_rtx"]
_INSTALL = {"tensorrt": 'pip install "avcompress[cuda]"', "tensorrt_rtx": 'pip install "avcompress[rtx]"'}


@dataclass(frozen=True)
class TrtSettings:
    """How an engine is run.

    Attributes:
        device: number of the GPU.
        dla_core: for engines that were built for DLA.
        profile: the optimization profile, of those that the engine was built with.
        graphs: launch copies and inference as one CUDA graph, where that is possible.
        high_priority: of the stream, over others of the process; where the CUDA package has priorities.
        timed: measure `device_ms` of every run.
        host_code: let the engine bring its own runtime, as a version-compatible one does: code of the CPU that runs.
    """

    device: int = 0
    dla_core: int | None = None
    profile: int = 0
    graphs: bool = True
    high_priority: bool = True
    timed: bool = False
    host_code: bool = False


def open_trt(path: Path, settings: TrtSettings = TrtSettings(), package: Package = "tensorrt") -> TrtSession:
    """Load an engine file. An engine is executable code: load those that you built or verified.

    Raises MissingError without a CUDA device or the package, EngineError when TensorRT refuses the engine.
    """
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: expected an engine file, got {error.strerror}; build the engine") from error
    cuda = open_cuda(settings.device)  # before TensorRT, which crashes where there is no device
    try:
        trt = importlib.import_module(package)
    except ImportError as error:
        raise MissingError(
            f"{path.name}: expected the package {package} to load, got: {one_line(error)}; {_INSTALL[package]}"
        ) from error
    return TrtSession(trt, cuda, plan, settings, f"{package}, {path.name}")


class Finish(Protocol):
    """What is done on the device with a run's outputs, instead of copying them to the host."""

    def submit(self, addresses: Mapping[str, int], stream: int) -> None:
        """Submit the work, given where the outputs are."""
        ...

    def outputs(self) -> Mapping[str, Array]:
        """What the run returns; the stream has got there."""
        ...

    def close(self) -> None:
        """Give all back."""
        ...


@dataclass(frozen=True)
class _Slot:
    """A tensor at its present shape: where it is on the device, and its page-locked twin as bytes and as an array."""

    name: str
    address: int
    raw: Array
    array: Array


class TrtSession:
    """See Session. One thread at a time; any thread.

    Attributes:
        device_ms: what the last run took on the GPU, copies included; None unless `timed`.
    """

    def __init__(self, trt: Any, cuda: Cuda, plan: bytes, settings: TrtSettings, where: str) -> None:
        self._cuda, self._settings, self._where = cuda, settings, where
        self._using = threading.Lock()
        self._open, self._lost = True, ""
        self._slots: tuple[tuple[_Slot, ...], tuple[_Slot, ...]] = ((), ())
        self._shapes: tuple[Shape, ...] | None = None
        self._buffers: dict[str, Buffer] = {}
        self._events: tuple[Any, ...] = ()
        self._finish: Finish | None = None
        self.device_ms: float | None = None
        try:
            with cuda.current(), contextlib.ExitStack() as held:
                self._load(trt, plan, held)
                self._prepare(trt)
                self._held = held.pop_all()
        except CudaError as error:
            raise self._named(error) from error

    def _load(self, trt: Any, plan: bytes, held: contextlib.ExitStack) -> None:
        """Make what is given back in the reverse order."""
        settings, cuda = self._settings, self._cuda
        self._stream = cuda.make_stream(settings.high_priority)
        held.callback(cuda.destroy_stream, self._stream)
        held.callback(self._free)
        self._loaded = Loaded(trt, plan, settings, self._where)
        held.callback(self._loaded.close)
        record = settings.graphs and not records_graphs(trt)
        self._work = Repeated(cuda, self._stream, self._submit, record)
        held.callback(self._work.reset)

    def _prepare(self, trt: Any) -> None:
        """Find out what goes in and out, and make room for the largest shapes."""
        tensors = read_tensors(trt, self._loaded.engine, self._settings.profile, self._where)
        self._ins = tuple(tensor for tensor in tensors if tensor.is_input)
        self._outs = tuple(tensor for tensor in tensors if not tensor.is_input)
        self._specs = {tensor.name: InputSpec(tensor.shape, tensor.dtype) for tensor in self._ins}
        self.inputs: Mapping[str, Shape] = MappingProxyType({tensor.name: tensor.shape for tensor in self._ins})
        self.outputs = tuple(tensor.name for tensor in self._outs)
        self._buffers.update((tensor.name, Buffer(self._cuda)) for tensor in tensors)
        if self._settings.timed:
            self._events = (self._cuda.make_event(),)
            self._events += (self._cuda.make_event(),)
        if self._settings.profile:
            chosen = self._loaded.context.set_optimization_profile_async(self._settings.profile, self._stream)
            self._insist(chosen, f"optimization profile {self._settings.profile} to be free")
            self._cuda.synchronize(self._stream)
        self._bind(tuple(tensor.high for tensor in self._ins))

    def attach(self, make: Callable[[Cuda, int, Mapping[str, InputSpec]], Finish]) -> None:
        """Finish every run on the device from now on; `make` is given the device, the stream and what the outputs are.

        Raises EngineError for an engine whose shapes vary, or one that has something attached.
        """
        if self._finish is not None or any(-1 in tensor.shape for tensor in self._ins):
            raise EngineError(
                f"{self._where}: expected fixed input shapes and nothing attached yet, got "
                f"{'something attached' if self._finish else 'shapes that vary'}; post-process on the host"
            )
        with self._using, self._cuda.current():
            self._refuse_unusable()
            specs = {slot.name: InputSpec(slot.array.shape, slot.array.dtype) for slot in self._slots[1]}
            self._finish = make(self._cuda, self._stream, specs)
            self._held.callback(self._finish.close)
            self._work.reset()

    @contextlib.contextmanager
    def profiled(self, hear: Callable[[str, float], None]) -> Iterator[None]:
        """Have every run in the `with` block tell its layers' times, in ms, by their names.

        Raises EngineError for a session that records CUDA graphs: a graph that is launched tells no layers.
        """
        if self._settings.graphs:
            raise EngineError(
                f"{self._where}: expected a session without CUDA graphs, got one with them; open it with graphs=False"
            )
        with self._using:
            self._refuse_unusable()
            self._loaded.listen(hear)
        try:
            yield
        finally:
            with self._using:
                self._loaded.listen(None)

    @property
    def graph_note(self) -> str:
        """Why there is no CUDA graph; empty where there is one, or may be one yet."""
        return self._work.note

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; see Session. After a failure the next run starts afresh, unless the GPU is lost to the process."""
        if not self._using.acquire(blocking=False):
            raise EngineError(f"{self._where}: expected one thread at a time, got two; open a session for each thread")
        try:
            self._refuse_unusable()
            check_inputs(self._where, self._specs, inputs)
            with self._cuda.current():
                return self._run(inputs)
        except CudaError as error:  # the device itself could not be reached
            self._lost = str(error) if error.sticky else ""
            raise self._named(error) from error
        finally:
            self._using.release()

    def _refuse_unusable(self) -> None:
        if not self._open:
            raise closed(self._where)
        if self._lost:
            raise EngineError(f"{self._where}: expected a GPU that works, got an earlier failure: {self._lost}")

    def _run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        shapes = tuple(inputs[tensor.name].shape for tensor in self._ins)
        for tensor, shape in zip(self._ins, shapes, strict=True):
            refuse_shape(tensor, shape, self._where)
        try:
            if shapes != self._shapes:
                self._bind(shapes)
            sources, results = self._slots
            for slot in sources:
                np.copyto(slot.array, inputs[slot.name], casting="no")
            self._launch()
            if self._finish:
                return self._finish.outputs()
            # The next run writes over them.
            return {slot.name: slot.array.copy() for slot in results}
        except EngineError as error:
            self._recover(error)
            raise self._named(error) from error
        except BaseException:  # an interrupted run leaves the stream busy
            self._recover(None)
            raise

    def _launch(self) -> None:
        """Run the work, and wait for it."""
        for event in self._events[:1]:
            self._cuda.record_event(event, self._stream)
        self._work.run()
        for event in self._events[1:]:
            self._cuda.record_event(event, self._stream)
        self._cuda.synchronize(self._stream)
        if self._events:
            self.device_ms = self._cuda.elapsed_ms(*self._events)

    def _submit(self) -> None:
        """All of one run that happens on the GPU."""
        sources, results = self._slots
        for slot in sources:
            self._cuda.copy_to_device(slot.address, slot.raw, self._stream)
        self._insist(self._loaded.context.execute_async_v3(self._stream), "a run")
        if self._finish:
            self._finish.submit({slot.name: slot.address for slot in results}, self._stream)
            return
        for slot in results:
            self._cuda.copy_to_host(slot.raw, slot.address, self._stream)

    def _insist(self, worked: bool, what: str) -> None:
        """Turn TensorRT's False into an error with what it logged."""
        if not worked:
            raise EngineError(
                f"{self._where}: expected {what}, got: {self._loaded.said()}; run again, or build the engine again"
            )

    def _bind(self, shapes: tuple[Shape, ...]) -> None:
        """Set the inputs' shapes, make room, and tell TensorRT where everything is."""
        self._work.reset()
        self._shapes = None
        context = self._loaded.context
        for tensor, shape in zip(self._ins, shapes, strict=True):
            self._insist(context.set_input_shape(tensor.name, shape), f"input {tensor.name!r} to take {shape}")
        sources = tuple(self._slot(tensor, shape) for tensor, shape in zip(self._ins, shapes, strict=True))
        results = tuple(self._slot(tensor, self._output_shape(tensor)) for tensor in self._outs)
        self._slots = (sources, results)
        self._shapes = shapes

    def _output_shape(self, tensor: IoTensor) -> Shape:
        try:
            shape = tuple(self._loaded.context.get_tensor_shape(tensor.name))
        except ValueError:  # TensorRT's mark of a shape that it does not know has a negative length
            shape = (-1,)
        if min(shape, default=1) < 0:
            raise EngineError(
                f"{self._where}, output {tensor.name!r}: expected a shape that follows from the inputs' shapes, got "
                "one that depends on values; move the operator that makes it out of the network"
            )
        return shape

    def _slot(self, tensor: IoTensor, shape: Shape) -> _Slot:
        size = int(np.prod(shape, dtype=np.int64)) * tensor.dtype.itemsize
        buffer = self._buffers[tensor.name]
        buffer.grow(size)
        placed = self._loaded.context.set_tensor_address(tensor.name, buffer.address)
        self._insist(placed, f"tensor {tensor.name!r} to be placed")
        raw = buffer.host[:size]
        return _Slot(tensor.name, buffer.address, raw, raw.view(tensor.dtype).reshape(shape))

    def _named(self, error: EngineError) -> EngineError:
        return EngineError(f"{self._where}: {str(error).removeprefix(f'{self._where}: ')}")

    def _recover(self, error: EngineError | None) -> None:
        """Forget what the failed run left behind, and find out whether the GPU still answers."""
        self._shapes = None
        failures = (
            error,
            _failure(self._work.reset),
            _failure(lambda: self._cuda.synchronize(self._stream)),
        )
        self._lost = next((str(e) for e in failures if isinstance(e, CudaError) and e.sticky), "")

    def close(self) -> None:
        """Give all back: graph, context, engine, runtime, memory, stream; a second call does nothing.

        Waits for a run in another thread. After a loss of the GPU the memory is gone with the process.
        """
        with self._using:
            if not self._open:
                return
            self._open, self._slots = False, ((), ())
            try:
                with contextlib.nullcontext() if self._lost else self._cuda.current():
                    self._held.close()
            except CudaError as error:
                if not (error.sticky or self._lost):
                    raise

    def _free(self) -> None:
        events, self._events = self._events, ()
        for event in events:
            self._cuda.destroy_event(event)
        close_all(self._buffers.values())

    def __enter__(self) -> TrtSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _failure(step: Callable[[], None]) -> CudaError | None:
    try:
        step()
    except CudaError as error:
        return error
    return None
