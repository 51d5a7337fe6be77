"""OpenVINO on the CPU: explicit about precision, threads and streams, so that two machines do the same."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from avcompress.files import write_atomically
from avcompress.recipe import OpenVinoEngine
from avcompress.spec import Array, EngineBuildError, EngineError, MissingError
from engines.built import LAYERS, MODEL, Built
from engines.layer_map import UNKNOWN, BuilderLayer, layers_json
from engines.network import float_nodes, read_network, weighted_nodes, with_weights
from engines.openvino_dialect import in_fp32, with_fake_quantize
from engines.openvino_int8 import int8_properties, weight_reach
from engines.session import InputSpec, check_inputs, closed, one_line

_PRECISIONS = {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
# What OpenVINO's own passes append to the name of a node that they rewrite.
_SUFFIXES = ("/DequantizationMultiply", "/WithoutBiases", "_original")

_SATURATES = "INT8 layers are computed in float: this CPU adds products of bytes in 16 bits, which saturate"


def build_openvino(onnx: Path, folder: Path, settings: OpenVinoEngine) -> Built:
    """Convert the network into `folder` as model.xml and model.bin, weights as they are, and compile it once.

    Raises EngineBuildError; MissingError for bf16 on a CPU without it.
    """
    import openvino

    start = time.monotonic()
    network = with_weights(read_network(onnx), onnx)
    weighted = weighted_nodes(network)
    outputs = {name: node.name for node in network.graph.node for name in node.output}
    target = folder / MODEL["openvino"]
    try:
        model = openvino.Core().read_model(with_fake_quantize(in_fp32(network)).SerializeToString())
        openvino.save_model(model, target, compress_to_fp16=False)
    except Exception as error:  # OpenVINO's errors share no base but this
        raise EngineBuildError(
            "parse", f"{onnx.name}: expected operators that OpenVINO knows, got: {one_line(error)}; change the network"
        ) from error
    try:
        layers = runtime_layers(compile_file(target, settings))
    except EngineError as error:
        raise EngineBuildError("load", f"{onnx.name}: {str(error).removeprefix(f'{target}: ')}") from error
    produced = {value.name: outputs[value.name] for value in network.graph.output if value.name in outputs}
    told = openvino_precisions(layers, weighted, produced)
    in_float = _is_quantized(model) and bool(int8_properties(weight_reach(model)))
    floats = frozenset(weighted if in_float else float_nodes(network))
    # A node that OpenVINO folded into another, or made part of an attention kernel, has lost its name.
    plain = _PRECISIONS[settings.precision]
    precisions = {name: plain if got == UNKNOWN and name in floats else got for name, got in told.items()}
    write_atomically(folder / LAYERS, layers_json(layers, precisions))
    return Built(
        backend="openvino",
        folder=folder,
        files=(target.name, target.with_suffix(".bin").name, LAYERS),
        seconds=time.monotonic() - start,
        size_bytes=target.stat().st_size + target.with_suffix(".bin").stat().st_size,
        precisions=precisions,
        runs_here=True,
        versions={"openvino": openvino.get_version()},
        note=f"layers that are not INT8 run in {settings.precision}; the layer map is this CPU's"
        + (f"; {_SATURATES}" if in_float else ""),
    )


def open_openvino(folder: Path, settings: OpenVinoEngine) -> OpenVinoSession:
    """Load model.xml from `folder` for one stream of single images.

    Raises EngineError when OpenVINO refuses it, MissingError for bf16 on a CPU without it.
    """
    return OpenVinoSession(compile_file(folder / MODEL["openvino"], settings), f"openvino, {folder.name}")


def compile_file(path: Path, settings: OpenVinoEngine, profiled: bool = False) -> Any:
    """Read model.xml and compile it; see `compile_openvino`."""
    import openvino

    _require_precision(settings)
    try:
        model = openvino.Core().read_model(path)
    except Exception as error:  # OpenVINO's errors share no base but this
        raise _refusal(str(path), error) from error
    return compile_openvino(model, settings, str(path), profiled)


def compile_openvino(model: Any, settings: OpenVinoEngine, where: str, profiled: bool = False) -> Any:
    """Compile an openvino.Model for one stream of single images; `profiled`: each run tells its operators' times.

    Raises EngineError when OpenVINO refuses it, MissingError for bf16 on a CPU without it.
    """
    import openvino

    _require_precision(settings)
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": settings.precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if settings.threads is not None:
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    if profiled:
        properties["PERF_COUNT"] = True
    if _is_quantized(model):
        properties |= int8_properties(weight_reach(model))
    try:
        return openvino.Core().compile_model(model, "CPU", properties)
    except Exception as error:  # OpenVINO's errors share no base but this
        raise _refusal(where, error) from error


def _is_quantized(model: Any) -> bool:
    return any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())


def _require_precision(settings: OpenVinoEngine) -> None:
    import openvino

    if settings.precision == "bf16" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise MissingError(
            "openvino, precision: expected a CPU with bf16, got one without; set precision: f32, or use a CPU with "
            "AVX512-BF16 or AMX"
        )


def _refusal(where: str, error: Exception) -> EngineError:
    return EngineError(f"{where}: expected an engine that OpenVINO can load, got: {one_line(error)}; build it again")


def runtime_layers(compiled: Any) -> tuple[BuilderLayer, ...]:
    """The operators as the CPU executes them, constants left out."""
    layers = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: str(value.astype(str)) for key, value in node.get_rt_info().items() if hasattr(value, "astype")}
        if facts.get("layerType") not in {"Const", "Input", "Output", None}:
            layers.append(
                BuilderLayer(
                    name=node.get_friendly_name(),
                    kind=facts["layerType"],
                    inputs=(facts.get("runtimePrecision", ""),),
                    constants=(),
                    outputs=tuple(facts.get("outputPrecisions", "").split(",")),
                    nodes=tuple(name for name in facts.get("originalLayersNames", "").split(",") if name),
                )
            )
    return tuple(layers)


def openvino_precisions(
    layers: Iterable[BuilderLayer], weighted: Iterable[str], outputs: Mapping[str, str]
) -> dict[str, str]:
    """What each weighted node runs in: int8, fp32, fp16, bf16, or unknown.

    Args:
        layers: of the runtime model; the first input is the precision that it computes in.
        weighted: names of ONNX nodes.
        outputs: for each graph output the node that makes it: OpenVINO calls that node after the output.
    """
    found: dict[str, str] = {}
    for layer in layers:
        if layer.kind in _PRODUCTS:
            precision = _PRECISIONS.get(layer.inputs[0], UNKNOWN)
            for name in layer.nodes:
                plain = onnx_name(name)
                node = outputs.get(plain, plain)
                found[node] = precision if found.get(node, precision) == precision else UNKNOWN
    return {name: found.get(name, UNKNOWN) for name in weighted}


def onnx_name(name: str) -> str:
    """The name of a node without what OpenVINO's passes appended to it."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


class OpenVinoSession:
    """A compiled OpenVINO network with one infer request."""

    def __init__(self, compiled: Any, where: str) -> None:
        self._where = where
        self._specs = {
            _name(port): InputSpec(
                tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape()),
                port.get_element_type().to_dtype(),
            )
            for port in compiled.inputs
        }
        self.inputs: Mapping[str, tuple[int, ...]] = MappingProxyType({n: s.shape for n, s in self._specs.items()})
        self.outputs = tuple(_name(port) for port in compiled.outputs)
        self._request = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; see Session."""
        if self._request is None:
            raise closed(self._where)
        check_inputs(self._where, self._specs, inputs)
        try:
            results = self._request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        except Exception as error:  # OpenVINO's errors share no base but this
            raise EngineError(f"{self._where}: expected a run, got: {one_line(error)}; build it again") from error
        # The request writes over its outputs in the next run.
        return {name: results[index].copy() for index, name in enumerate(self.outputs)}

    def close(self) -> None:
        """Release the request."""
        self._request = None

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _name(port: Any) -> str:
    """The ONNX name of an input or output; a tensor that several outputs share has several names."""
    names = sorted(port.get_names())
    own = port.get_node().get_friendly_name().removesuffix("/sink_port_0")
    return own if own in names or not names else str(names[0])
