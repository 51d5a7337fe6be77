"""Our kernels' compilers and launchers: real compilers where there are any, and stand-ins that return what the real
packages return."""

import ctypes
import enum
import importlib
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from avcompress.spec import EngineError, MissingError
from engines.tensorrt.cuda import CudaError
from engines.tensorrt.cuda_bindings import CudaBindings
from engines.tensorrt.device import Device
from engines.tensorrt.kernels import OPTION, SOURCE, open_kernels
from engines.tensorrt.kernels_cuda_bindings import CudaBindingsKernels, compile_by_nvrtc
from engines.tensorrt.kernels_pycuda import PyCudaKernels
from engines.tensorrt.pycuda import PyCuda

ARCHITECTURES = ("sm_72", "sm_75", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110", "sm_120")


def by_nvcc(folder, architecture, form):
    """What nvcc makes of the kernels: machine code, or PTX as text."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    known = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True).stdout
    if architecture not in known:
        pytest.skip(f"this nvcc does not know {architecture}")
    command = [nvcc, OPTION, "-Werror", "all-warnings", f"-arch={architecture}", form, "-o", str(folder / "out")]
    subprocess.run([*command, str(SOURCE)], check=True, capture_output=True)
    return (folder / "out").read_bytes()


@pytest.mark.nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernels_compile_for_every_gpu_that_nvcc_knows(tmp_path, architecture):
    assert by_nvcc(tmp_path, architecture, "-cubin")[:4] == b"\x7fELF"


@pytest.mark.nvcc
def test_no_product_is_rounded_together_with_a_sum_but_where_the_source_says_so(tmp_path):
    ptx = by_nvcc(tmp_path, "sm_87", "-ptx").decode()

    kernels = dict(zip(*[iter(re.split(r"\.entry (\w+)", ptx)[1:])] * 2, strict=True))
    assert {name for name, body in kernels.items() if "fma." in body} == {"class_map"}
    assert ".ftz" not in ptx
    assert "div.rn.f32" in ptx


@pytest.mark.nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernels_compile_for_every_gpu_that_nvrtc_knows(architecture):
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings")
    try:
        _, known = nvrtc.nvrtcGetSupportedArchs()
    except Exception as error:
        pytest.skip(f"needs NVRTC: {error}")
    if int(architecture.removeprefix("sm_")) not in known:
        pytest.skip(f"this NVRTC does not know {architecture}")

    assert compile_by_nvrtc(SOURCE.read_text(), architecture)[:4] == b"\x7fELF"


# --- cuda-bindings

Result = enum.IntEnum("Result", {"CUDA_SUCCESS": 0, "CUDA_ERROR_NOT_FOUND": 500, "CUDA_ERROR_ILLEGAL_ADDRESS": 700})
Compiled = enum.IntEnum("Compiled", {"NVRTC_SUCCESS": 0, "NVRTC_ERROR_COMPILATION": 6})


class Driver:
    """`cuda.bindings.driver`."""

    def __init__(self):
        self.calls, self.fail = [], {}

    def _result(self, name, *values):
        code = self.fail.pop(name, Result.CUDA_SUCCESS)
        return (code, *(None if code else value for value in values))

    def cuModuleLoadData(self, image):
        self.calls.append(("load", ctypes.string_at(image, 4)))
        return self._result("cuModuleLoadData", "module")

    def cuModuleGetFunction(self, module, name):
        self.calls.append(("function", module, name))
        return self._result("cuModuleGetFunction", name)

    def cuLaunchKernel(self, *arguments):
        *shape, places, extra = arguments
        addresses = (ctypes.c_void_p * 3).from_address(places)
        values = [ctypes.c_uint64.from_address(addresses[0]).value]
        values += [ctypes.c_int32.from_address(addresses[1]).value, ctypes.c_float.from_address(addresses[2]).value]
        self.calls.append(("launch", *shape, values, extra))
        return self._result("cuLaunchKernel")

    def cuModuleUnload(self, module):
        self.calls.append(("unload", module))
        return self._result("cuModuleUnload")


class Nvrtc:
    """`cuda.bindings.nvrtc`: fills buffers that it is given."""

    def __init__(self, log=b""):
        self.log, self.options, self.destroyed = log, None, 0

    def nvrtcCreateProgram(self, source, name, headers, *_):
        assert (type(source), name, headers) == (bytes, b"postprocess.cu", 0)
        return Compiled.NVRTC_SUCCESS, "program"

    def nvrtcCompileProgram(self, program, count, options):
        assert (program, count) == ("program", len(options))
        self.options = options
        return (Compiled.NVRTC_ERROR_COMPILATION if self.log else Compiled.NVRTC_SUCCESS,)

    def nvrtcGetCUBINSize(self, _):
        return Compiled.NVRTC_SUCCESS, 4

    def nvrtcGetCUBIN(self, _, buffer):
        return self._fill(buffer, b"\x7fELF")

    def nvrtcGetProgramLogSize(self, _):
        return Compiled.NVRTC_SUCCESS, len(self.log) + 1

    def nvrtcGetProgramLog(self, _, buffer):
        return self._fill(buffer, self.log + b"\0")

    def nvrtcDestroyProgram(self, _):
        self.destroyed += 1
        return (Compiled.NVRTC_SUCCESS,)

    def _fill(self, buffer, content):
        assert len(buffer) > len(content) > 0, "a bytes object of one byte is shared by all of Python"
        ctypes.memmove(ctypes.c_char_p(buffer), content, len(content))
        return (Compiled.NVRTC_SUCCESS,)


@pytest.fixture
def packages(monkeypatch):
    """cuda-bindings as a stand-in; .driver, .nvrtc."""
    found = SimpleNamespace(driver=Driver(), nvrtc=Nvrtc())
    for name in ("driver", "nvrtc"):
        monkeypatch.setitem(sys.modules, f"cuda.bindings.{name}", getattr(found, name))
    return found


def test_nvrtc_compiles_for_the_device_without_contraction(packages):
    assert compile_by_nvrtc("source", "sm_87") == b"\x7fELF"
    assert packages.nvrtc.options == [b"--gpu-architecture=sm_87", b"-fmad=false"]
    assert packages.nvrtc.destroyed == 1


def test_what_nvrtc_refuses_is_one_line_with_its_words(packages):
    packages.nvrtc.log = b"nvrtc: error: invalid value for --gpu-architecture (-arch)\n"

    with pytest.raises(EngineError, match=r"NVRTC: expected .* to compile for sm_999, got: nvrtc: error"):
        compile_by_nvrtc("source", "sm_999")
    assert packages.nvrtc.destroyed == 1


def test_a_missing_nvrtc_names_what_to_install(packages, monkeypatch):
    def missing(*_):
        raise RuntimeError("Failure finding libnvrtc.so")

    monkeypatch.setattr(packages.nvrtc, "nvrtcCreateProgram", missing, raising=False)
    with pytest.raises(MissingError, match=r"got: .*finding libnvrtc\.so; pip install nvidia-cuda-nvrtc"):
        compile_by_nvrtc("source", "sm_87")


def test_without_cuda_bindings_the_package_is_named(monkeypatch):
    for name in ("cuda.bindings.nvrtc", "cuda.nvrtc"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingError, match="pip install cuda-bindings"):
        compile_by_nvrtc("source", "sm_87")


ARGUMENTS = (np.uint64(2**40 + 8), np.int32(-3), np.float32(0.25))


def test_a_launch_hands_over_the_values_as_the_kernel_has_them(packages):
    kernels = CudaBindingsKernels(b"\x7fELF and more")
    for _ in range(2):
        kernels.launch("decode", 28, 128, ARGUMENTS, 77)
    kernels.close()
    kernels.close()

    launch = ("launch", b"decode", 28, 1, 1, 128, 1, 1, 0, 77, [2**40 + 8, -3, 0.25], 0)
    assert packages.driver.calls == [
        ("load", b"\x7fELF"),
        ("function", "module", b"decode"),
        launch,
        launch,
        ("unload", "module"),
    ]


def test_a_failed_launch_is_an_error_that_says_whether_the_gpu_is_lost(packages):
    kernels = CudaBindingsKernels(b"\x7fELF")
    packages.driver.fail["cuLaunchKernel"] = Result.CUDA_ERROR_ILLEGAL_ADDRESS

    with pytest.raises(CudaError, match=r"cuLaunchKernel: .*, got CUDA_ERROR_ILLEGAL_ADDRESS \(700\)") as lost:
        kernels.launch("decode", 1, 128, ARGUMENTS, 77)
    assert lost.value.sticky
    packages.driver.fail["cuModuleGetFunction"] = Result.CUDA_ERROR_NOT_FOUND
    with pytest.raises(CudaError, match="NOT_FOUND") as found:
        kernels.launch("no_such", 1, 128, ARGUMENTS, 77)
    assert not found.value.sticky


# --- pycuda


class PyCudaError(Exception):
    pass


class CompileError(PyCudaError):
    pass


@pytest.fixture
def pycuda(monkeypatch):
    """pycuda as a stand-in: .calls, .refuse."""
    found = SimpleNamespace(calls=[], refuse=None)

    def compile_(source, options, arch, no_extern_c):
        if found.refuse:
            raise found.refuse
        found.calls.append((source, options, arch, no_extern_c))
        return b"code"

    def function(*arguments, **shape):
        found.calls.append((arguments, shape))

    def get_function(name):
        found.calls.append(name)
        return function

    class Driver(SimpleNamespace):
        __hash__ = object.__hash__

    device = SimpleNamespace(compute_capability=lambda: (7, 2), retain_primary_context=lambda: None)
    driver = Driver(
        Error=PyCudaError,
        CompileError=CompileError,
        init=lambda: None,
        Device=lambda _: device,
        Stream=lambda _: SimpleNamespace(handle=5),
        module_from_buffer=lambda code: SimpleNamespace(get_function=get_function) if code == b"code" else None,
        Context=SimpleNamespace(synchronize=lambda: None),
    )
    driver.Device.count = lambda: 1
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setitem(sys.modules, "pycuda.compiler", SimpleNamespace(compile=compile_))
    found.cuda = PyCuda(driver, 0)
    return found


def test_pycuda_compiles_and_launches_on_its_own_stream(pycuda):
    stream = pycuda.cuda.make_stream(high_priority=True)

    kernels = PyCudaKernels(pycuda.cuda, "source", "sm_72")
    for _ in range(2):
        kernels.launch("decode", 28, 128, ARGUMENTS, stream)
    kernels.close()
    kernels.close()

    compiled, name, first, second = pycuda.calls
    assert compiled == ("source", ["-fmad=false"], "sm_72", True)
    assert name == "decode"
    assert first == second
    assert first[0] == ARGUMENTS
    assert (first[1]["grid"], first[1]["block"], first[1]["stream"].handle) == ((28, 1), (128, 1, 1), 5)


@pytest.mark.parametrize(
    ("refuse", "kind", "expected"),
    [
        (OSError("nvcc was not found (is it on the PATH?)"), MissingError, "nvcc: expected the compiler on PATH"),
        (
            CompileError("nvcc compilation failed"),
            EngineError,
            "nvcc: expected .* to compile for sm_72",
        ),
    ],
)
def test_what_pycudas_compiler_refuses_is_one_line(pycuda, refuse, kind, expected):
    pycuda.refuse = refuse
    with pytest.raises(kind, match=expected):
        PyCudaKernels(pycuda.cuda, "source", "sm_72")


# --- which of the two


def test_the_package_of_the_device_is_the_one_that_compiles(packages, pycuda, monkeypatch):
    monkeypatch.setattr(CudaBindings, "__init__", lambda _: None)
    for kind, expected in ((CudaBindings, CudaBindingsKernels), (PyCuda, PyCudaKernels)):
        monkeypatch.setattr(kind, "device", lambda _: Device("Xavier", "7.2", "CUDA 11.4"))
        assert isinstance(open_kernels(CudaBindings() if kind is CudaBindings else pycuda.cuda), expected)
    assert packages.nvrtc.options[0] == b"--gpu-architecture=sm_72"
    assert pycuda.calls[0][0] == SOURCE.read_text()


def test_another_package_cannot_compile(cuda):
    with pytest.raises(EngineError, match="expected cuda-bindings or pycuda, got fake cuda"):
        open_kernels(cuda)


def test_the_source_travels_with_the_package():
    assert importlib.import_module("engines.tensorrt.kernels").SOURCE.suffix == ".cu"
    assert SOURCE.is_file()
