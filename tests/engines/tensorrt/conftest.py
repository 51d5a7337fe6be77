"""A CUDA device in host memory and a TensorRT whose engines are Python functions; both behave as the real ones do.

Work that is submitted to a stream runs when somebody waits for it, and really moves the bytes. While a stream records,
nothing runs. What the real ones forbid is an AssertionError here; what they report is the error that they report.
"""

import contextlib
import enum
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from engines.tensorrt import build, configure, worker
from engines.tensorrt.cuda import CudaError
from engines.tensorrt.device import Device

NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
NUMPY |= {"UINT8": "uint8", "BF16": ml_dtypes.bfloat16, "FP8": ml_dtypes.float8_e4m3fn}


@dataclass
class FakeStream:
    queue: list = field(default_factory=list)
    recording: list | None = None

    def submit(self, work):
        (self.queue if self.recording is None else self.recording).append(work)


class FakeCuda:
    """See Cuda. `fail[call]` is the error of the call's next use: (text, sticky)."""

    package = "fake cuda"
    has_graphs = True

    def __init__(self):
        self.device_memory, self.pinned, self.streams, self.graphs, self.events = {}, {}, {}, {}, {}
        self.fail, self.lost, self.depth, self.log, self.calls = {}, "", 0, [], []
        self.clock_ms = 0.0

    def _check(self, call):
        self.calls.append(call)
        assert self.depth or self.lost, f"{call}: the device is not current"
        if self.lost:
            raise CudaError(call, self.lost, sticky=True)
        if call in self.fail:
            text, sticky = self.fail.pop(call)
            if sticky:
                self.lose(text)
            raise CudaError(call, text, sticky)

    def lose(self, error):
        """Fail from now on, as after a sticky error; the work that was submitted is gone."""
        self.lost = error
        for work in (*self.graphs.values(), *(stream.queue for stream in self.streams.values())):
            work.clear()

    @contextlib.contextmanager
    def current(self):
        self.depth += 1
        try:
            if "current" in self.fail:
                self._check("current")
            yield
        finally:
            self.depth -= 1

    def device(self):
        return Device("Fake GPU", "8.7", "CUDA 12.6")

    def memory(self, address, size_bytes):
        """Device memory as an array: an address outside what was allocated is an error, as on a GPU."""
        for start, array in self.device_memory.items():
            if start <= address and address + size_bytes <= start + array.nbytes:
                return array[address - start : address - start + size_bytes]
        self.lose("cudaErrorIllegalAddress")
        raise CudaError("kernel", self.lost, sticky=True)

    def allocate(self, size_bytes):
        self._check("allocate")
        array = np.full(size_bytes, 0xAB, np.uint8)
        self.device_memory[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, address):
        self._check("free")
        del self.device_memory[address]
        self.log.append("memory")

    def allocate_pinned(self, size_bytes):
        self._check("allocate_pinned")
        array = np.full(size_bytes, 0xCD, np.uint8)
        self.pinned[id(array)] = array
        return array

    def free_pinned(self, array):
        self._check("free_pinned")
        del self.pinned[id(array)]

    def make_stream(self, high_priority):
        self._check("make_stream")
        self.streams[77 + high_priority] = FakeStream()
        return 77 + high_priority

    def destroy_stream(self, stream):
        self._check("destroy_stream")
        del self.streams[stream]
        self.log.append("stream")

    def copy_to_device(self, address, array, stream):
        self._check("copy_to_device")
        assert any(np.shares_memory(array, held) for held in self.pinned.values()), "a copy from pageable memory"

        def copy():
            self.memory(address, array.nbytes)[:] = array

        self.streams[stream].submit(copy)

    def copy_to_host(self, array, address, stream):
        self._check("copy_to_host")
        assert any(np.shares_memory(array, held) for held in self.pinned.values()), "a copy to pageable memory"

        def copy():
            array[:] = self.memory(address, array.nbytes)

        self.streams[stream].submit(copy)

    def synchronize(self, stream):
        assert self.streams[stream].recording is None or self.lost, "a wait while recording"
        self._check("synchronize")
        work, self.streams[stream].queue = self.streams[stream].queue, []
        for step in work:
            step()

    def begin_capture(self, stream):
        self._check("begin_capture")
        self.streams[stream].recording = []

    def end_capture(self, stream):
        work, self.streams[stream].recording = self.streams[stream].recording, None
        self._check("end_capture")
        self.graphs[id(work)] = work
        return work

    def abandon_capture(self, stream):
        self.streams[stream].recording = None

    def launch_graph(self, graph, stream):
        self._check("launch_graph")
        self.streams[stream].queue += self.graphs[id(graph)]

    def destroy_graph(self, graph):
        self._check("destroy_graph")
        del self.graphs[id(graph)]
        self.log.append("graph")

    def make_event(self):
        self._check("make_event")
        event = SimpleNamespace(ms=None)
        self.events[id(event)] = event
        return event

    def record_event(self, event, stream):
        self._check("record_event")

        def stamp():
            event.ms, self.clock_ms = self.clock_ms, self.clock_ms + 2.5

        self.streams[stream].submit(stamp)

    def elapsed_ms(self, first, second):
        self._check("elapsed_ms")
        return second.ms - first.ms

    def destroy_event(self, event):
        self._check("destroy_event")
        del self.events[id(event)]

    @property
    def leaks(self):
        """What was not given back, by kind."""
        held = {"memory": self.device_memory, "pinned": self.pinned, "streams": self.streams, "graphs": self.graphs}
        return {kind: len(things) for kind, things in (held | {"events": self.events}).items() if things}


@dataclass
class FakeTensor:
    """An input or output of a fake engine. `profiles` hold (smallest, optimal, largest) where -1 is in `shape`."""

    name: str
    shape: tuple
    dtype: str = "FLOAT"
    is_input: bool = True
    profiles: tuple = ()
    location: str = "DEVICE"
    form: str = "LINEAR"


@dataclass
class FakePlan:
    """An engine: its tensors, what it computes, and the shapes of outputs given those of inputs (default: the same)."""

    tensors: tuple
    function: object
    output_shapes: object = lambda _: {}
    profiles: int = 1
    times: tuple = ()  # (layer, ms) of each run, as a profiler is told


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4, FP4 = range(11)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class TensorFormat(enum.Enum):
    LINEAR, CHW2, HWC8, CHW4, CHW16, CHW32 = range(6)


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class BadDims:
    """TensorRT's Dims with nbDims = -1."""

    def __len__(self):
        return -1  # noqa: PLE0303 - as TensorRT has it

    def __iter__(self):
        raise ValueError("__len__() should return >= 0")


class FakeILogger:
    Severity = Severity

    def __init__(self):
        self.made = True


class FakeIProfiler:
    def __init__(self):
        self.made = True


class FakeTensorrt:
    """The `tensorrt` module. `plans` are the files that it can load; `refuse` makes a call fail with that log line."""

    __version__ = "10.3.0"
    ILogger, IProfiler = FakeILogger, FakeIProfiler

    def __init__(self, cuda):
        self.cuda, self.plans, self.refuse, self.calls = cuda, {}, {}, []
        self.configs, self.dla_cores, self.host_code = [], [], []
        self.DataType, self.TensorIOMode = DataType, TensorIOMode
        self.TensorLocation, self.TensorFormat = TensorLocation, TensorFormat

    def Runtime(self, logger):
        assert logger.made, "ILogger.__init__ was not called"
        if "Runtime" in self.refuse:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeRuntime(self, logger)

    def refused(self, call, logger):
        """Whether the call fails; logs why."""
        self.calls.append(call)
        if call in self.refuse:
            logger.log(Severity.WARNING, "nobody asked")
            logger.log(Severity.ERROR, self.refuse.pop(call))
            return True
        return False


class FakeRuntime:
    DLA_core = None
    engine_host_code_allowed = False

    def __init__(self, trt, logger):
        self.trt, self.logger = trt, logger

    def deserialize_cuda_engine(self, plan):
        self.trt.dla_cores.append(self.DLA_core)
        self.trt.host_code.append(self.engine_host_code_allowed)
        if self.trt.refused("deserialize_cuda_engine", self.logger):
            return None
        if plan not in self.trt.plans:
            self.logger.log(Severity.ERROR, "[stdArchiveReader.cpp] Serialization: magic tag does not match\n")
            return None
        return FakeEngine(self, self.trt.plans[plan])

    def __del__(self):
        self.trt.cuda.log.append("runtime")


class FakeEngine:
    def __init__(self, runtime, plan):
        self.runtime, self.trt, self.plan = runtime, runtime.trt, plan
        self.by_name = {tensor.name: tensor for tensor in plan.tensors}
        self.num_io_tensors, self.num_optimization_profiles = len(plan.tensors), plan.profiles

    def get_tensor_name(self, index):
        return self.plan.tensors[index].name

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if self.by_name[name].is_input else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return list(self.by_name[name].shape)

    def get_tensor_dtype(self, name):
        return DataType[self.by_name[name].dtype]

    def get_tensor_location(self, name):
        return TensorLocation[self.by_name[name].location]

    def get_tensor_format(self, name):
        return TensorFormat[self.by_name[name].form]

    def get_tensor_profile_shape(self, name, profile):
        assert self.by_name[name].is_input, "a profile of an output"
        return [list(shape) for shape in self.by_name[name].profiles[profile]]

    def create_runtime_config(self):
        return SimpleNamespace(cuda_graph_strategy=None)

    def create_execution_context(self, runtime_config=None):
        self.trt.configs.append(runtime_config)
        if self.trt.refused("create_execution_context", self.runtime.logger):
            return None
        return FakeContext(self)

    def __del__(self):
        self.trt.cuda.log.append("engine")


class FakeContext:
    def __init__(self, engine):
        self.engine, self.trt, self.cuda = engine, engine.trt, engine.trt.cuda
        self.profile, self.shapes, self.addresses = 0, {}, {}
        # Grows with every change that a recorded graph would not know of.
        self.state, self.warm, self.profiler = 0, None, None

    def __del__(self):
        self.cuda.log.append("context")

    def _refused(self, call):
        return self.trt.refused(call, self.engine.runtime.logger)

    def set_optimization_profile_async(self, profile, stream):
        if self._refused("set_optimization_profile_async"):
            return False
        self.profile = profile
        self.cuda.streams[stream].submit(lambda: None)
        return True

    def set_input_shape(self, name, shape):
        tensor = self.engine.by_name[name]
        low = high = tensor.shape
        if -1 in tensor.shape:
            low, _, high = tensor.profiles[self.profile]
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if not fits or self._refused("set_input_shape"):
            return False
        self.shapes[name], self.state = tuple(shape), self.state + 1
        return True

    def set_tensor_address(self, name, memory):
        assert name in self.engine.by_name, name
        self.addresses[name], self.state = memory, self.state + 1
        return not self._refused("set_tensor_address")

    def get_tensor_shape(self, name):
        return self._shapes_of_outputs()[name]

    def _shapes_of_outputs(self):
        outputs = [tensor for tensor in self.engine.plan.tensors if not tensor.is_input]
        first = next(iter(self.shapes.values()))
        return {t.name: first for t in outputs} | self.engine.plan.output_shapes(self.shapes)

    def execute_async_v3(self, stream):
        assert set(self.addresses) == set(self.engine.by_name), "not every tensor has an address"
        if self._refused("execute_async_v3"):
            return False
        recorded = self.cuda.streams[stream].recording is not None
        if recorded and self.warm != self.state:
            self.engine.runtime.logger.log(Severity.ERROR, "operation not permitted when stream is capturing")
            return False
        self.warm, state = self.state, self.state

        def compute():
            assert not recorded or state == self.state, "a graph of another shape, or of memory that is gone"
            self._compute()
            for layer, ms in self.engine.plan.times if self.profiler else ():
                self.profiler.report_layer_time(layer, ms)

        assert self.profiler is None or self.profiler.made, "IProfiler.__init__ was not called"
        assert self.profiler is None or not recorded, "a profiler while a graph is recorded"
        self.cuda.streams[stream].submit(compute)
        return True

    def _compute(self):
        plan, outputs = self.engine.plan, self._shapes_of_outputs()
        arrays = {name: self._array(name, shape) for name, shape in self.shapes.items()}
        for name, value in plan.function(arrays).items():
            self._array(name, outputs[name])[...] = value

    def _array(self, name, shape):
        dtype = np.dtype(NUMPY[self.engine.by_name[name].dtype])
        size = int(np.prod(shape)) * dtype.itemsize
        return self.cuda.memory(self.addresses[name], size).view(dtype).reshape(shape)


@pytest.fixture
def cuda():
    """A device in host memory."""
    return FakeCuda()


@pytest.fixture
def trt(cuda):
    """A TensorRT on that device."""
    return FakeTensorrt(cuda)


@pytest.fixture
def plan():
    """FakePlan: what a fake engine is."""
    return FakePlan


@pytest.fixture
def tensor():
    """FakeTensor: an input or output of a fake engine."""
    return FakeTensor


@pytest.fixture
def bad_dims():
    """The shape that TensorRT gives where it knows none."""
    return BadDims()


# --- the builder: the module `tensorrt` itself, in fake/, for this process and for the child

FAKE = Path(__file__).parent / "fake"
ORIN = Device("Orin", "8.7", "CUDA 12.6")


@pytest.fixture
def tensorrt(monkeypatch):
    """Let `tensorrt` be the fake, of a version, with what goes wrong; there is a GPU, too."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setattr(configure, "find_device", lambda: ORIN)
    monkeypatch.setattr("engines.build.find_device", lambda: ORIN)

    def use(version="10.3.0", **setup):
        monkeypatch.setenv("FAKE_TENSORRT", json.dumps({"version": version, **setup}))
        sys.modules.pop("tensorrt", None)

    use()
    yield use
    sys.modules.pop("tensorrt", None)


@pytest.fixture
def in_process(monkeypatch):
    """Run the worker in this process: a child of its own for every case would take half a second each."""

    def run(onnx, folder, settings, track):
        (folder / worker.SETTINGS).write_text(settings.model_dump_json())
        worker.main([str(onnx), str(folder), "0"])
        return json.loads((folder / worker.RESULT).read_text())

    monkeypatch.setattr(worker, "_die_with", lambda _: None)
    monkeypatch.setattr(build, "run_child", run)
