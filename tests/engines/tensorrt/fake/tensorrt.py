"""A module that behaves as NVIDIA's `tensorrt` does: it never raises, it returns None, False or -1 and logs the reason.

What a version has is what its genuine bindings have; objects refuse attributes that theirs lack, as pybind11's do.
$FAKE_TENSORRT is JSON: `version`, and what goes wrong.
"""

import enum
import json
import os
import signal
import time

SETUP = json.loads(os.environ.get("FAKE_TENSORRT", "{}"))
__version__ = SETUP.get("version", "10.3.0")
NUMBER = tuple(int(part) for part in __version__.split(".")[:2])
TYPED_FLAGS = NUMBER < (11, 0)  # flags, calibrators, precisions of layers: gone in 11
CORES = SETUP.get("dla_cores", 0)


def fault(name):
    return SETUP.get(name)


def enumeration(name, members):
    return enum.IntEnum(name, {member: index for index, member in enumerate(members)})


Severity = enumeration("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
_kinds = {"EXPLICIT_BATCH": 0} if TYPED_FLAGS else {}
if NUMBER >= (10, 0):
    _kinds["STRONGLY_TYPED"] = 1 if TYPED_FLAGS else 0
NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", _kinds)
_flags = ["DEBUG", "GPU_FALLBACK", "REFIT", "TF32"]
if TYPED_FLAGS:
    _flags += ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"]
    _flags += ["BF16"] if NUMBER >= (9, 0) else []
if NUMBER >= (8, 6):
    _flags += ["VERSION_COMPATIBLE"]
BuilderFlag = enumeration("BuilderFlag", _flags)
DataType = enumeration("DataType", ["FLOAT", "HALF", "INT8", "INT32"])
DeviceType = enumeration("DeviceType", ["GPU", "DLA"])
LayerType = enumeration("LayerType", ["CONVOLUTION", "CONSTANT", "QUANTIZE", "DEQUANTIZE", "ACTIVATION", "ELEMENTWISE"])
MemoryPoolType = enumeration("MemoryPoolType", ["WORKSPACE"])
ProfilingVerbosity = enumeration("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"])
LayerInformationFormat = enumeration("LayerInformationFormat", ["ONELINE", "JSON"])
if NUMBER >= (8, 6):
    HardwareCompatibilityLevel = enumeration("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"])


class ILogger:
    def __init__(self):
        self.made = True


if NUMBER >= (8, 6):
    OnnxParserFlag = enumeration("OnnxParserFlag", ["NATIVE_INSTANCENORM"])
registered = []


def init_libnvinfer_plugins(logger, namespace):
    registered.append(namespace)
    return True


def say(logger, severity, message):
    logger.log(severity, message)


if NUMBER >= (10, 0):

    class IProgressMonitor:
        def __init__(self):
            self.made = True


if TYPED_FLAGS:

    class IInt8EntropyCalibrator2:
        def __init__(self):
            self.made = True


KINDS = {"Conv": 0, "QuantizeLinear": 2, "DequantizeLinear": 3, "Relu": 4, "Add": 5}


class Layer:
    __slots__ = ("name", "num_outputs", "output_types", "type", *(("precision",) if TYPED_FLAGS else ()))

    def __init__(self, name, kind):
        self.name, self.type, self.num_outputs, self.output_types = name, kind, 1, {}

    if TYPED_FLAGS:

        def set_output_type(self, index, kind):
            self.output_types[index] = kind


class Tensor:
    __slots__ = ("is_shape_tensor", "name", "shape")

    def __init__(self, name, shape):
        self.name, self.shape, self.is_shape_tensor = name, shape, name in (fault("shape_tensors") or ())


class Network:
    __slots__ = ("flags", "inputs", "layers", "num_outputs")

    def __init__(self, flags):
        self.flags, self.layers, self.inputs, self.num_outputs = flags, [], [], 0

    @property
    def num_layers(self):
        return len(self.layers)

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_layer(self, index):
        return self.layers[index]

    def get_input(self, index):
        return self.inputs[index]


class ParserError:
    def __init__(self, message, node, op, number):
        self._facts = message, node, op, number

    def desc(self):
        return self._facts[0]

    def node(self):
        return self._facts[3]

    if NUMBER >= (10, 0):

        def node_name(self):
            return self._facts[1]

        def node_operator(self):
            return self._facts[2]


class OnnxParser:
    __slots__ = ("errors", "logger", "native", "network")

    def __init__(self, network, logger):
        self.network, self.logger, self.errors, self.native = network, logger, [], NUMBER >= (10, 0)

    if NUMBER >= (8, 6):

        def set_flag(self, flag):
            self.native = self.native or flag == OnnxParserFlag.NATIVE_INSTANCENORM

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        return self.errors[index]

    def parse_from_file(self, path):
        import onnx

        model = onnx.load(path, load_external_data=False)
        if "EXPLICIT_BATCH" in _kinds and not self.network.flags & 1:
            say(self.logger, Severity.ERROR, "This version of the ONNX parser only supports explicit batch networks")
            return False
        for number, node in enumerate(model.graph.node):
            if node.op_type == fault("unparsable"):
                self.errors.append(ParserError("No importer registered for op", node.name, node.op_type, number))
                return False
            if node.op_type == "InstanceNormalization" and not self.native:
                if not registered:
                    text = "Assertion failed: plugin != nullptr: InstanceNormalization plugin was not found"
                    self.errors.append(ParserError(text, node.name, node.op_type, number))
                    return False
                say(self.logger, Severity.INFO, "InstanceNormalization by its plugin")
            kind = LayerType(KINDS.get(node.op_type, 5))
            self.network.layers.append(Layer(node.name, kind))
        for value in model.graph.input:
            shape = [dim.dim_value if dim.dim_value > 0 else -1 for dim in value.type.tensor_type.shape.dim]
            self.network.inputs.append(Tensor(value.name, shape))
        self.network.num_outputs = len(model.graph.output)
        return True


class Profile:
    __slots__ = ("shapes",)

    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, minimum, optimum, maximum):
        self.shapes[name] = minimum, optimum, maximum


class TimingCache:
    __slots__ = ("content",)

    def __init__(self, content):
        self.content = content

    def serialize(self):
        return None if fault("no_timing_cache_back") else memoryview(self.content + b"+timed")


class Config:
    __slots__ = (
        "DLA_core", "cache", "default_device_type", "flags", "logger", "pools", "profiles", "profiling_verbosity",
        *(("int8_calibrator",) if TYPED_FLAGS else ()),
        *(("builder_optimization_level", "hardware_compatibility_level") if NUMBER >= (8, 6) else ()),
        *(("progress_monitor",) if NUMBER >= (10, 0) else ()),
    )  # fmt: skip

    def __init__(self, logger):
        self.logger, self.flags, self.profiles, self.cache = logger, set(), [], None
        self.default_device_type, self.pools = DeviceType.GPU, {}
        for name in ("int8_calibrator", "progress_monitor"):
            if name in Config.__slots__:
                setattr(self, name, None)
        if NUMBER >= (8, 6):
            self.builder_optimization_level = 3

    def set_flag(self, flag):
        self.flags.add(flag)

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool] = min(size, (fault("gpu_mb") or 1 << 20) << 20)

    def get_memory_pool_limit(self, pool):
        return self.pools[pool]

    def add_optimization_profile(self, profile):
        if fault("bad_profile"):
            say(self.logger, Severity.ERROR, "IOptimizationProfile: dimensions are invalid")
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def can_run_on_DLA(self, layer):
        return layer.name not in (fault("not_on_dla") or ())

    def create_timing_cache(self, content):
        return None if content and fault("timing_cache_corrupt") else TimingCache(bytes(content))

    def set_timing_cache(self, cache, ignore_mismatch):
        if cache.content and fault("timing_cache_mismatch") and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


class Builder:
    __slots__ = ("logger", "num_DLA_cores")

    def __init__(self, logger):
        if fault("no_builder"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger, self.num_DLA_cores = logger, CORES

    def create_network(self, flags=0):
        return None if fault("no_network") else Network(flags)

    def create_builder_config(self):
        return None if fault("no_config") else Config(self.logger)

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        report(network, config)
        if fault("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault("hang"):
            time.sleep(fault("hang"))
        if fault("take_mb"):
            taken = bytearray(fault("take_mb") << 20)  # zeroed pages: written to, so that they are held
            taken[:: 1 << 12] = b"x" * len(taken[:: 1 << 12])
            time.sleep(60)
        for problem in problems(network, config):
            say(config.logger, Severity.ERROR, problem)
            return None
        return memoryview(json.dumps(summary(network, config)).encode())


def report(network, config):
    monitor = config.progress_monitor if NUMBER >= (10, 0) else None
    if monitor is None:
        say(config.logger, Severity.VERBOSE, f"After concat removal: {len(network.layers)} layers")
        for layer in network.layers:
            say(config.logger, Severity.VERBOSE, f"=============== Computing costs for {layer.name}")
        return
    monitor.phase_start("Building engine", None, 2)
    monitor.phase_start("Timing", "Building engine", len(network.layers))
    for index in range(len(network.layers)):
        monitor.step_complete("Timing", index)
    monitor.phase_finish("Timing")
    monitor.step_complete("Building engine", 0)
    monitor.phase_finish("Building engine")


def problems(network, config):
    strong = NUMBER >= (10, 0) and bool(network.flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    names = {flag.name for flag in config.flags}
    if strong and names & {"FP16", "INT8"}:
        yield "Strongly typed networks take no precision flags"
    if any(-1 in tensor.shape for tensor in network.inputs) and not config.profiles:
        yield "Network has dynamic or shape inputs, but no optimization profile has been defined."
    if config.pools.get(MemoryPoolType.WORKSPACE, 1 << 30) < 2 << 20:
        yield "no tactics to implement the operation within workspace limit"
    yield from problems_of_dla(network, config, names)
    yield from problems_of_calibration(config, names)
    if fault("refuses"):
        yield fault("refuses")


def problems_of_dla(network, config, names):
    if config.default_device_type == DeviceType.DLA and "GPU_FALLBACK" not in names:
        for layer in network.layers:
            if not config.can_run_on_DLA(layer):
                yield f"Layer {layer.name} is not supported on DLA, and GPU fallback is not enabled"


def problems_of_calibration(config, names):
    if not TYPED_FLAGS or config.int8_calibrator is None or "INT8" not in names:
        return
    cache = config.int8_calibrator.read_calibration_cache()
    first, second, third = (int(part) for part in __version__.split(".")[:3])
    number = first * (10000 if first >= 10 else 1000) + second * 100 + third
    if cache is None or not bytes(cache).startswith(f"TRT-{number}-EntropyCalibration2\n".encode()):
        config.int8_calibrator.get_batch(["x"])
        yield "Calibration failure occurred with no scaling factors detected."


def summary(network, config):
    """What was asked, as the engine: for tests to read."""
    return {
        "network_flags": network.flags,
        "flags": sorted(flag.name for flag in config.flags),
        "layers": [
            [each.name, getattr(each, "precision", None) if TYPED_FLAGS and hasattr(each, "precision") else None,
             {str(index): int(kind) for index, kind in each.output_types.items()}]
            for each in network.layers
        ],
        "profiles": [profile.shapes for profile in config.profiles],
        "workspace": config.pools.get(MemoryPoolType.WORKSPACE),
        "level": config.builder_optimization_level if NUMBER >= (8, 6) else None,
        "hardware": int(getattr(config, "hardware_compatibility_level", 0)) if NUMBER >= (8, 6) else None,
        "dla_core": config.DLA_core if config.default_device_type == DeviceType.DLA else None,
        "timing_cache": bytes(config.cache.content).decode() if config.cache else None,
    }  # fmt: skip


class Inspector:
    def get_engine_information(self, form):
        layers = [{"Name": "input copy", "LayerType": "Reformat", "Inputs": [], "Outputs": []}]
        return json.dumps({"Layers": layers, "format": form.name})


class Engine:
    def create_engine_inspector(self):
        return Inspector()


class Runtime:
    __slots__ = ("DLA_core", *(("engine_host_code_allowed",) if NUMBER >= (8, 6) else ()), "logger")

    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, _):
        if fault("unloadable"):
            say(self.logger, Severity.ERROR, fault("unloadable"))
            return None
        return Engine()
