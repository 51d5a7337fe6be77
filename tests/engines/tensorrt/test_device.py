import ctypes

import pytest

from avcompress.spec import MissingError
from engines.tensorrt import device
from engines.tensorrt.device import Device, find_device


class Driver:
    """libcuda, as ctypes shows it: results go through pointers, errors come back as numbers."""

    def __init__(self, count=1, failing="", error=100):
        self.count, self.failing, self.error = count, failing, error

    def _end(self, name):
        return self.error if name == self.failing else 0

    def cuInit(self, _):
        return self._end("cuInit")

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return self._end("cuDeviceGetCount")

    def cuDeviceGet(self, found, ordinal):
        found._obj.value = ordinal
        return self._end("cuDeviceGet")

    def cuDeviceGetName(self, buffer, size, _):
        buffer.value = b"Orin"
        assert size == ctypes.sizeof(buffer)
        return self._end("cuDeviceGetName")

    def cuDeviceGetAttribute(self, value, number, _):
        value._obj.value = {75: 8, 76: 7}[number]
        return self._end("cuDeviceGetAttribute")

    def cuDriverGetVersion(self, version):
        version._obj.value = 12060
        return self._end("cuDriverGetVersion")


@pytest.fixture(autouse=True)
def no_kernel_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "_KERNEL_DRIVER", tmp_path / "version")
    return tmp_path / "version"


def test_a_device_is_described():
    assert find_device(lambda _: Driver()) == Device("Orin", "8.7", "CUDA 12.6")


def test_the_driver_s_own_version_counts_where_it_tells(no_kernel_driver):
    no_kernel_driver.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    )

    assert find_device(lambda _: Driver()).driver == "CUDA 12.6, driver 550.54.15"


@pytest.mark.parametrize(
    "name",
    ["cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDriverGetVersion"],
)
def test_every_failing_call_is_a_missing_device(name):
    with pytest.raises(MissingError, match=r"trt: expected a CUDA device, got error 100: .*nvidia-smi"):
        find_device(lambda _: Driver(failing=name))


def test_a_driver_that_sees_no_device_is_told():
    with pytest.raises(MissingError, match="a driver that sees none"):
        find_device(lambda _: Driver(count=0))


def test_no_driver_is_told_with_where_to_build_instead():
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(MissingError, match=r"no driver \(libcuda.so.1\); build on the device .*--export-only.*trt_rtx"):
        find_device(missing)
