"""The seam's two packages, by stand-ins that return what the real ones return: see the heads of the two files."""

import ctypes
import enum
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from avcompress.spec import MissingError
from engines.tensorrt.cuda import STICKY, CudaError, open_cuda, version_text
from engines.tensorrt.cuda_bindings import CudaBindings, open_cuda_bindings
from engines.tensorrt.pycuda import PyCuda, open_pycuda

Code = enum.IntEnum(
    "Code",
    {
        "cudaSuccess": 0,
        "cudaErrorInvalidValue": 1,
        "cudaErrorMemoryAllocation": 2,
        "cudaErrorInsufficientDriver": 35,
        "cudaErrorIllegalAddress": 700,
        "cudaErrorStreamCaptureInvalidated": 901,
    },
)
Kind = enum.Enum("Kind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
Mode = enum.Enum("Mode", {"cudaStreamCaptureModeGlobal": 0, "cudaStreamCaptureModeThreadLocal": 1})
Attribute = enum.Enum("Attribute", {"cudaDevAttrComputeCapabilityMajor": 75, "cudaDevAttrComputeCapabilityMinor": 76})


class Runtime:
    """`cuda.bindings.runtime`: every function returns a tuple that begins with the code."""

    def __init__(self, devices=2):
        self.current, self.calls, self.fail, self.blocks = 0, [], {}, {}
        self.constants = {
            "cudaMemcpyKind": Kind,
            "cudaStreamCaptureMode": Mode,
            "cudaDeviceAttr": Attribute,
            "cudaStreamNonBlocking": 1,
            "cudaHostAllocDefault": 0,
        }
        self.returns = {
            "cudaGetDeviceCount": lambda: [devices],
            "cudaGetDevice": lambda: [self.current],
            "cudaSetDevice": self.set_device,
            "cudaDriverGetVersion": lambda: [12060],
            "cudaGetDeviceProperties": lambda _: [SimpleNamespace(name=b"Orin\0\0")],
            "cudaDeviceGetAttribute": lambda attribute, _: [{75: 8, 76: 7}[attribute.value]],
            "cudaDeviceGetStreamPriorityRange": lambda: [0, -5],
            "cudaStreamCreateWithPriority": lambda _, priority: [1000 + priority],
            "cudaStreamEndCapture": lambda _: ["graph"],
            "cudaGraphInstantiateWithFlags": lambda *_: ["executable"],
            "cudaEventCreate": lambda: ["event"],
            "cudaEventElapsedTime": lambda *_: [1.5],
            "cudaMalloc": self.block,
            "cudaHostAlloc": lambda size, _: self.block(size),
            "cudaFree": lambda address: self.blocks.pop(address) and (),
            "cudaFreeHost": lambda address: self.blocks.pop(address) and (),
            "cudaMemcpyAsync": self.copy,
        }

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)
        if name in self.constants:
            return self.constants[name]

        def call(*arguments):
            self.calls.append((name, *arguments))
            values = self.returns.get(name, lambda *_: ())(*arguments)
            code = self.fail.pop(name, Code.cudaSuccess)
            return (code, *(None if code else value for value in values))

        return call

    def set_device(self, device):
        self.current = device
        return ()

    def block(self, size):
        made = ctypes.create_string_buffer(size)
        self.blocks[ctypes.addressof(made)] = made
        return [ctypes.addressof(made)]

    def copy(self, to, source, size, kind, _):
        assert isinstance(kind, Kind)
        ctypes.memmove(to, source, size)
        return ()


@pytest.fixture
def runtime():
    return Runtime()


def test_bytes_travel_to_the_device_and_back(runtime):
    cuda = CudaBindings(runtime, 1)
    with cuda.current():
        there, back, address = cuda.allocate_pinned(16), cuda.allocate_pinned(16), cuda.allocate(16)
        there[:] = np.arange(16)
        cuda.copy_to_device(address, there, 7)
        cuda.copy_to_host(back, address, 7)
        cuda.synchronize(7)
        assert back.tolist() == list(range(16))
        cuda.free(address)
        cuda.free_pinned(there)
        cuda.free_pinned(back)

    assert not runtime.blocks


def test_the_device_is_current_inside_and_the_former_one_after(runtime):
    cuda = CudaBindings(runtime, 1)
    runtime.current = 0

    with cuda.current():
        assert runtime.current == 1
    assert runtime.current == 0
    with pytest.raises(ZeroDivisionError), cuda.current():
        fail()
    assert runtime.current == 0


def test_a_device_is_described_as_people_know_it(runtime):
    device = CudaBindings(runtime, 0).device()

    assert (device.name, device.compute_capability, device.driver) == ("Orin", "8.7", "CUDA 12.6")
    assert version_text(13000) == "CUDA 13.0"


@pytest.mark.parametrize(("high", "priority"), [(True, -5), (False, 0)])
def test_a_lower_number_is_a_higher_priority(runtime, high, priority):
    assert CudaBindings(runtime, 0).make_stream(high) == 1000 + priority
    assert runtime.calls[-1] == ("cudaStreamCreateWithPriority", 1, priority)


def test_a_recorded_graph_is_instantiated_and_its_template_destroyed(runtime):
    cuda = CudaBindings(runtime, 0)
    cuda.begin_capture(7)
    graph = cuda.end_capture(7)
    cuda.launch_graph(graph, 7)
    cuda.destroy_graph(graph)

    assert runtime.calls[-6:] == [
        ("cudaStreamBeginCapture", 7, Mode.cudaStreamCaptureModeThreadLocal),
        ("cudaStreamEndCapture", 7),
        ("cudaGraphInstantiateWithFlags", "graph", 0),
        ("cudaGraphDestroy", "graph"),
        ("cudaGraphLaunch", "executable", 7),
        ("cudaGraphExecDestroy", "executable"),
    ]


def test_a_recording_that_is_abandoned_leaves_no_graph(runtime):
    cuda = CudaBindings(runtime, 0)
    cuda.abandon_capture(7)
    assert runtime.calls[-1] == ("cudaGraphDestroy", "graph")
    runtime.fail["cudaStreamEndCapture"] = Code.cudaErrorStreamCaptureInvalidated
    cuda.abandon_capture(7)
    assert runtime.calls[-1] == ("cudaGetLastError",)


def test_events_keep_time(runtime):
    cuda = CudaBindings(runtime, 0)
    first, second = cuda.make_event(), cuda.make_event()
    cuda.record_event(first, 7)
    cuda.record_event(second, 7)

    assert cuda.elapsed_ms(first, second) == 1.5
    cuda.destroy_event(first)
    assert runtime.calls[-1] == ("cudaEventDestroy", "event")


@pytest.mark.parametrize(
    ("code", "sticky", "advice"),
    [
        (Code.cudaErrorInvalidValue, False, "try again"),
        (Code.cudaErrorMemoryAllocation, False, "free memory on the GPU"),
        (Code.cudaErrorIllegalAddress, True, "end the process and start it anew"),
    ],
)
def test_an_error_has_its_name_and_says_whether_the_gpu_is_lost(runtime, code, sticky, advice):
    cuda = CudaBindings(runtime, 0)
    runtime.fail["cudaMalloc"] = code

    with pytest.raises(
        CudaError, match=rf"cudaMalloc: expected success, got {code.name} \({code}\); {advice}"
    ) as caught:
        cuda.allocate(16)

    assert caught.value.sticky is sticky
    assert runtime.calls[-1] == ("cudaGetLastError",), "the error would be TensorRT's next"


def test_the_sticky_codes_are_those_of_the_documentation():
    assert {700, 702, 710, 714, 715, 716, 717, 718, 719} <= STICKY
    assert not {0, 1, 2, 3, 35, 100, 400, 600, 900, 901} & STICKY


@pytest.mark.parametrize("name", ["cuda.bindings.runtime", "cuda.cudart"])
def test_the_new_and_the_old_name_of_the_package_are_found(monkeypatch, runtime, name):
    def import_module(asked):
        if asked != name:
            raise ImportError(asked)
        return runtime

    monkeypatch.setattr(importlib, "import_module", import_module)

    assert open_cuda(1).package == "cuda-bindings"


@pytest.mark.parametrize("problem", ["no driver", "no device", "no libcuda", "another device"])
def test_without_a_device_it_is_missing(monkeypatch, problem):
    runtime = Runtime(devices=0 if problem == "no device" else 1)
    if problem == "no driver":
        runtime.fail["cudaGetDeviceCount"] = Code.cudaErrorInsufficientDriver
    if problem == "no libcuda":  # cuda-bindings 12 raises, 13 returns a code

        def broken():
            raise RuntimeError("Failed to dlopen libcuda.so.1")

        runtime.returns["cudaGetDeviceCount"] = broken
    monkeypatch.setattr(importlib, "import_module", lambda _: runtime)

    with pytest.raises(MissingError, match=r"expected a driver and device 3, got: .*install NVIDIA's driver"):
        open_cuda_bindings(3)


class PycudaError(Exception):
    pass


class Allocation:
    """Device memory, or the base of a page-locked array."""

    def __init__(self, driver, size):
        self.driver, self.array = driver, np.zeros(size, np.uint8)
        driver.held.append(self)

    def __int__(self):
        return self.array.ctypes.data

    def free(self):
        assert self.driver.stack, "no currently active context"
        self.driver.held.remove(self)


class Pinned(np.ndarray):
    """An array whose base is the allocation, as pycuda's are."""

    base = None


class Driver:
    """`pycuda.driver`."""

    Error = PycudaError

    def __init__(self):
        self.stack, self.held, self.lost = [], [], False
        context = SimpleNamespace(push=lambda: self.stack.append(context))
        self.Context = SimpleNamespace(pop=self.stack.pop, synchronize=self.wait)
        self.Event = lambda: SimpleNamespace(record=self.check, time_till=lambda _: 2.0)

        def device(_):
            return SimpleNamespace(
                retain_primary_context=lambda: context, compute_capability=lambda: (7, 2), name=lambda: "Xavier"
            )

        self.Device = device
        self.Device.count = lambda: 2

    def init(self):
        pass

    def check(self, stream):
        assert stream.handle == 4242

    def wait(self):
        if self.lost:
            raise PycudaError("cuStreamSynchronize failed: an illegal memory access was encountered")

    def Stream(self, flags):
        assert self.stack, "no currently active context"
        assert flags == 1
        return SimpleNamespace(handle=4242, synchronize=self.wait)

    def get_driver_version(self):
        return 11040

    def mem_alloc(self, size):
        if size > 1 << 30:
            raise PycudaError("cuMemAlloc failed: out of memory")
        return Allocation(self, size)

    def pagelocked_empty(self, shape, dtype):
        assert dtype is np.uint8
        allocation = Allocation(self, shape[0])
        array = allocation.array.view(Pinned)
        array.base = allocation
        return array

    def memcpy_htod_async(self, address, array, stream):
        self.check(stream)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def memcpy_dtoh_async(self, array, address, stream):
        self.check(stream)
        ctypes.memmove(array.ctypes.data, address, array.nbytes)


def fail():
    raise ZeroDivisionError


@pytest.fixture
def driver():
    return Driver()


def test_pycuda_moves_bytes_too_and_has_no_graphs(driver):
    cuda = PyCuda(driver, 0)
    with cuda.current():
        stream = cuda.make_stream(high_priority=True)
        there, back, address = cuda.allocate_pinned(16), cuda.allocate_pinned(16), cuda.allocate(16)
        there[:] = np.arange(16)
        cuda.copy_to_device(address, there, stream)
        cuda.copy_to_host(back, address, stream)
        cuda.synchronize(stream)
        assert back.tolist() == list(range(16))
        first, second = cuda.make_event(), cuda.make_event()
        cuda.record_event(first, stream)
        assert cuda.elapsed_ms(first, second) == 2
        cuda.destroy_event(first)
        cuda.free(address)
        cuda.free_pinned(there)
        cuda.free_pinned(back)
        cuda.destroy_stream(stream)

    assert (stream, cuda.has_graphs, driver.held, driver.stack) == (4242, False, [], [])
    assert cuda.device().compute_capability == "7.2"
    assert cuda.device().driver == "CUDA 11.4"
    for refuse in (lambda: cuda.begin_capture(stream), lambda: cuda.end_capture(stream)):
        with pytest.raises(CudaError, match="no CUDA graphs"):
            refuse()


def test_pycudas_context_is_always_popped_or_the_thread_would_end_the_process(driver):
    cuda = PyCuda(driver, 0)

    with cuda.current():
        assert len(driver.stack) == 1
    assert driver.stack == []
    with pytest.raises(ZeroDivisionError), cuda.current():
        fail()
    assert driver.stack == []


def test_pycuda_finds_out_whether_an_error_was_sticky_by_asking_again(driver):
    cuda = PyCuda(driver, 0)
    with cuda.current():
        stream = cuda.make_stream(high_priority=False)
        with pytest.raises(CudaError, match="out of memory; free memory on the GPU") as caught:
            cuda.allocate(1 << 31)
        assert not caught.value.sticky
        driver.lost = True
        with pytest.raises(CudaError, match="illegal memory access was encountered; end the process") as caught:
            cuda.synchronize(stream)
        assert caught.value.sticky


def test_a_device_that_pycuda_does_not_see_is_missing(monkeypatch, driver):
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    assert open_pycuda(1).package == "pycuda"
    with pytest.raises(MissingError, match="expected device 2, got 2 devices"):
        open_pycuda(2)

    def broken():
        raise PycudaError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(driver, "init", broken)
    with pytest.raises(MissingError, match="expected a driver and device 0, got: cuInit failed"):
        open_pycuda(0)


def test_without_either_package_both_are_named(monkeypatch):
    def import_module(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", import_module)

    with pytest.raises(MissingError, match=r"pip install cuda-bindings; pycuda: .*pip install pycuda"):
        open_cuda()


def test_pycuda_is_taken_where_cuda_bindings_does_not_reach_the_device(monkeypatch, driver):
    # cuda-bindings 13 on a driver for CUDA 12, beside the pycuda of that JetPack.
    runtime = Runtime()
    runtime.fail["cudaGetDeviceCount"] = Code.cudaErrorInsufficientDriver
    modules = {"cuda.bindings.runtime": runtime, "pycuda.driver": driver}
    monkeypatch.setattr(importlib, "import_module", modules.__getitem__)

    assert open_cuda().package == "pycuda"
