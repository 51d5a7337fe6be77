import mmap
import sys
import time
from types import SimpleNamespace

import pytest

from validation.machine import (
    GpuState,
    MachineLog,
    MachineState,
    PeakMemory,
    energy_j,
    logged,
    read_state,
    state_warnings,
    throttled,
)
from validation.machine import nvml as nvml_module
from validation.machine.state import Cooling, Counter


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def zone(number, kind, millidegrees):
    folder = f"sys/class/thermal/thermal_zone{number}"
    return {f"{folder}/type": kind, f"{folder}/temp": millidegrees}


def cooling(number, kind, state, most):
    folder = f"sys/class/thermal/cooling_device{number}"
    return {f"{folder}/type": kind, f"{folder}/cur_state": state, f"{folder}/max_state": most}


def core(number, khz, governor):
    folder = f"sys/devices/system/cpu/cpu{number}/cpufreq"
    return {f"{folder}/scaling_cur_freq": khz, f"{folder}/scaling_governor": governor}


def rail(sensor, channel, label, millivolts, milliamperes):
    folder = f"sys/class/hwmon/{sensor}"
    return {
        f"{folder}/name": "ina3221",
        f"{folder}/in{channel}_label": label,
        f"{folder}/in{channel}_input": millivolts,
        f"{folder}/curr{channel}_input": milliamperes,
    }


PROC = {
    "proc/loadavg": "1.25 0.80 0.60 2/345 6789",
    "proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:    8192000 kB",
}

NVPMODEL = """< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE_30W >"""


@pytest.fixture
def orin(tmp_path):
    """A Jetson AGX Orin: sensors of parts that sleep answer with an error, here an empty file."""
    return tree(
        tmp_path,
        {
            **PROC,
            **core(0, 2201600, "schedutil"),
            **core(2, 1100800, "schedutil"),
            **core(10, 729600, "schedutil"),
            **zone(0, "cpu-thermal", 51250),
            **zone(1, "cv0-thermal", ""),
            **zone(10, "tj-thermal", 52000),
            **cooling(0, "pwm-fan", 2, 4),
            **cooling(1, "cpu-throttle-alert", 0, 2),
            **cooling(2, "devfreq-17000000.ga10b", 0, 10),
            **rail("hwmon3", 1, "VDD_GPU_SOC", 20000, 160),
            **rail("hwmon3", 2, "VDD_CPU_CV", 19000, 100),
            **rail("hwmon3", 3, "VIN_SYS_5V0", 5000, 900),
            **rail("hwmon4", 1, "NC", 0, 0),
            "sys/class/hwmon/hwmon3/in7_label": "sum of shunt voltages",
            "sys/class/hwmon/hwmon5/name": "soctherm_oc",
            "sys/class/hwmon/hwmon5/oc3_event_cnt": "7",
            "sys/class/devfreq/17000000.ga10b/cur_freq": "1300500000",
            "sys/class/devfreq/15340000.vic/cur_freq": "115200000",
            "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
            "etc/nvpmodel.conf": NVPMODEL,
        },
    )


@pytest.fixture
def desktop(tmp_path):
    """A desktop whose clock, heat and energy can be read."""
    powercap = "sys/class/powercap/intel-rapl:0"
    return tree(
        tmp_path,
        {
            **PROC,
            **core(0, 4700000, "performance"),
            **core(1, 4600000, "performance"),
            **zone(0, "x86_pkg_temp", 61000),
            **zone(1, "acpitz", 27800),
            **zone(2, "acpitz", 29800),
            **cooling(0, "Processor", 0, 10),
            **cooling(1, "Processor", 0, 10),
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 3,
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 4,
            "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": 9,
            "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count": 9,
            f"{powercap}/name": "package-0",
            f"{powercap}/energy_uj": 262143000000,
            f"{powercap}/max_energy_range_uj": 262143328850,
            f"{powercap}:0/name": "core",
            f"{powercap}:0/energy_uj": 5,
        },
    )


def test_a_jetson_tells_its_clocks_mode_rails_and_over_current(orin):
    state = read_state(orin)

    assert state.governors == ("schedutil",)
    assert state.cpu_mhz == (2201.6, 1100.8, pytest.approx(729.6))
    assert state.temperatures_c == {"cpu-thermal": 51.25, "tj-thermal": 52.0}
    assert state.cooling["cpu-throttle-alert 1"] == Cooling(0, 2)
    assert state.throttle_counts == {"oc3_event_cnt": 7}
    assert state.power_mode == "MODE_30W"
    assert state.rails_w == pytest.approx({"VDD_GPU_SOC": 3.2, "VDD_CPU_CV": 1.9, "VIN_SYS_5V0": 4.5})
    assert state.gpus == (GpuState("integrated GPU", clock_mhz=1300.5),)
    assert state.load_average == 1.25
    assert state.memory_available_mb == 8000
    assert [line.split(":")[0] for line in state_warnings(MachineLog((state,)))] == [
        "CPU governor schedutil",
        "power mode MODE_30W",
    ]


def test_a_mode_without_a_name_has_its_number(orin):
    (orin / "etc/nvpmodel.conf").unlink()
    assert read_state(orin).power_mode == "mode 2"


def test_a_desktop_tells_throttling_and_energy_of_whole_packages(desktop):
    state = read_state(desktop)

    assert state.cpu_mhz == (4700.0, 4600.0)
    assert state.temperatures_c == {"x86_pkg_temp": 61.0, "acpitz": 27.8, "acpitz 2": 29.8}
    assert state.throttle_counts == {"core_throttle_count": 7, "package_throttle_count": 9}
    assert state.counters == {"RAPL package-0": Counter(262143.0, pytest.approx(262143.32885))}
    assert (state.power_mode, state.rails_w, state.gpus) == (None, {}, ())
    assert state_warnings(MachineLog((state,))) == ()


def test_a_bare_container_tells_nothing_and_that_is_said(tmp_path):
    state = read_state(tmp_path)

    assert state == MachineState(at_s=state.at_s)
    log = MachineLog((state, state))
    assert (throttled(log), energy_j(log)) == ((), {})
    assert state_warnings(log) == (
        "this machine tells no clock, temperature or throttling: whether it slowed down cannot be seen",
    )


def test_files_that_hold_no_number_are_as_good_as_missing(tmp_path):
    tree(tmp_path, {**zone(0, "cpu", "hot"), "proc/loadavg": "none", "proc/meminfo": "MemAvailable:"})
    state = read_state(tmp_path)
    assert (state.temperatures_c, state.load_average, state.memory_available_mb) == ({}, None, None)


def test_this_machine_can_be_read():
    assert read_state().load_average is not None


# --- throttling


def test_each_sign_of_throttling_is_a_line_of_its_own():
    gpu = GpuState("NVIDIA T4", clock_mhz=1500.0)
    before = MachineState(
        0.0, cpu_mhz=(900.0, 4000.0), throttle_counts={"core_throttle_count": 5}, cooling={"pwm-fan 0": Cooling(1, 4)},
        gpus=(gpu,),
    )  # fmt: skip
    during = MachineState(
        1.0,
        cpu_mhz=(3000.0, 3500.0),
        cooling={"pwm-fan 0": Cooling(4, 4), "gpu-throttle-alert 9": Cooling(1, 2), "Processor 1": Cooling(3, 10)},
        gpus=(GpuState("NVIDIA T4", clock_mhz=1200.0, slowed_by=("power cap",)),),
    )
    after = MachineState(2.0, cpu_mhz=(3990.0,), throttle_counts={"core_throttle_count": 8}, gpus=(gpu,))

    assert throttled(MachineLog((before, during, after))) == (
        "core_throttle_count rose by 3: the processor slowed down",
        "cooling device gpu-throttle-alert 9 was at 1 of 2: it holds clocks down",
        "cooling device Processor 1 was at 3 of 10: it holds clocks down",
        "NVIDIA T4: its clock was held down: power cap",
        "CPU clock, fastest core: fell from 4000 to 3500 MHz",
        "NVIDIA T4: clock fell from 1500 to 1200 MHz, which an idle GPU may do by itself",
    )
    assert throttled(MachineLog((before, after))) == ("core_throttle_count rose by 3: the processor slowed down",)
    assert throttled(MachineLog((before, before))) == throttled(MachineLog()) == ()


def test_a_governor_that_lowers_clocks_by_itself_is_named():
    looks = (MachineState(0.0, ("schedutil",), cpu_mhz=(4000.0,)), MachineState(1.0, cpu_mhz=(3599.0,)))
    assert throttled(MachineLog(looks)) == (
        "CPU clock, fastest core: fell from 4000 to 3599 MHz, which governor schedutil may do by itself",
    )
    assert throttled(MachineLog((looks[0], MachineState(1.0, cpu_mhz=(3601.0,))))) == ()


def test_the_desktop_s_counters_are_compared(desktop):
    before = read_state(desktop)
    tree(desktop, {"sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 6})
    assert throttled(MachineLog((before, read_state(desktop)))) == (
        "core_throttle_count rose by 2: the processor slowed down",
    )


# --- energy


def test_a_counter_that_starts_again_goes_on():
    looks = [MachineState(float(i), counters={"c": Counter(j, 1000.0)}) for i, j in enumerate((900.0, 950.0, 30.0))]
    assert energy_j(MachineLog(tuple(looks))) == {"c": pytest.approx(50 + 80)}


def test_a_counter_that_falls_for_no_known_reason_is_left_out():
    looks = [MachineState(float(i), counters={"GPU 0": Counter(j)}) for i, j in enumerate((900.0, 30.0))]
    assert energy_j(MachineLog(tuple(looks))) == {}


@pytest.mark.parametrize(
    ("rails", "watts"),
    [({"VDD_IN": 10.0, "VDD_CPU_GPU_CV": 6.0}, 10.0), ({"VDD_GPU_SOC": 4.0, "VIN_SYS_5V0": 5.0}, 9.0)],
)
def test_rails_are_integrated_and_parts_of_a_whole_are_not_counted_twice(rails, watts):
    twice = {name: 2 * value for name, value in rails.items()}
    looks = (MachineState(10.0, rails_w=rails), MachineState(12.0, rails_w=twice), MachineState(13.0, rails_w=rails))
    assert energy_j(MachineLog(looks)) == {"board rails": pytest.approx(1.5 * watts * 3)}
    # Before and after alone see the board at rest.
    assert energy_j(MachineLog(looks[::2])) == {}


# --- the log


def test_the_log_looks_before_and_after_and_meanwhile_only_where_asked():
    looks = iter(range(1000))

    def read():
        return MachineState(float(next(looks)))

    with logged(read) as quiet:
        pass
    assert [state.at_s for state in quiet.log.states] == [0.0, 1.0]
    with logged(read, every_s=0.001) as recording:
        while len(recording.states) < 4:
            pass
    times = [state.at_s for state in recording.log.states]
    assert len(times) >= 5
    assert times == sorted(times)


def test_an_error_in_the_block_stops_the_looking():
    looked = []

    def read():
        looked.append(1)
        return MachineState(0.0)

    with pytest.raises(ZeroDivisionError), logged(read, every_s=0.001):
        raise ZeroDivisionError
    count = len(looked)
    time.sleep(0.02)
    assert len(looked) == count


# --- memory


def test_the_peak_of_memory_is_from_the_reset_on():
    # Pages of their own: an array might lie in memory that the process has held for long.
    with mmap.mmap(-1, 40_000_000) as pages:
        for start in range(0, 40_000_000, 1_000_000):
            pages[start : start + 1_000_000] = b"x" * 1_000_000
        held = PeakMemory().mb
    memory = PeakMemory()
    if not memory.was_reset:
        pytest.skip("this system does not let the peak be reset")
    before = memory.mb
    assert before < held - 30
    with mmap.mmap(-1, 60_000_000) as pages:
        for start in range(0, 60_000_000, 1_000_000):
            pages[start : start + 1_000_000] = b"x" * 1_000_000
    assert memory.mb > before + 50


def test_a_system_without_proc_tells_no_memory(tmp_path):
    memory = PeakMemory(tmp_path / "none")
    assert (memory.was_reset, memory.mb) == (False, None)


# --- NVML


def nvml_with(reasons, new=True):
    """A driver with one GPU, as nvidia-ml-py speaks to it; it counts no energy."""
    name = "nvmlDeviceGetCurrentClocks" + ("EventReasons" if new else "ThrottleReasons")
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: f"handle {index}",
        "nvmlDeviceGetName": lambda _: b"NVIDIA T4",
        "nvmlDeviceGetClockInfo": lambda _, kind: {1: 1590, 2: 5000}[kind],
        "nvmlDeviceGetTemperature": lambda *_: 61,
        "nvmlDeviceGetPowerUsage": lambda _: 69_500,
        name: lambda _: reasons,
    }
    return SimpleNamespace(NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0, **answers)


@pytest.fixture
def driver(monkeypatch):
    def install(nvml):
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        nvml_module._library.cache_clear()

    yield install
    nvml_module._library.cache_clear()


@pytest.mark.parametrize("new", [True, False])
def test_a_gpu_tells_why_it_is_slow_but_not_that_it_is_idle(driver, new):
    driver(nvml_with(0x1 | 0x4 | 0x40, new))
    state = read_state()

    assert state.gpus == (
        GpuState("NVIDIA T4", 1590, 5000, 61, 69.5, slowed_by=("power cap", "temperature, by the hardware")),
    )
    assert "GPU 0" not in state.counters


def test_a_driver_that_does_not_answer_is_no_gpu(driver):
    def broken():
        raise OSError("libnvidia-ml.so.1: cannot open")

    driver(SimpleNamespace(nvmlInit=broken))
    assert read_state().gpus == ()
