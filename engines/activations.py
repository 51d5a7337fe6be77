"""Every tensor that a network computes on the way, not only its outputs, as each runtime has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import helper

from avcompress.recipe import OpenVinoEngine
from avcompress.spec import Array, Batch, EngineError
from engines.in_memory import open_model
from engines.onnx_graph import copy, fresh, infer_shapes, use_counts
from engines.openvino import compile_openvino
from engines.openvino_dialect import in_fp32, with_fake_quantize
from engines.session import one_line

Activations = Callable[[Batch], Mapping[str, Array]]
"""Runs a network once: its tensors by name. The arrays may be overwritten by the next run."""

Open = Callable[[onnx.ModelProto, Collection[str]], AbstractContextManager[Activations]]
"""Makes a network ready, as a context, to tell the tensors of these names; one that the runtime lacks is left out."""

_LOW = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
_OPENVINO = OpenVinoEngine(backend="openvino")


def activation_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """The tensors that are computed from the network's inputs, in graph order, and the node that makes each.

    A node without a name is called after its tensor. What is computed from constants alone is left out.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    alive = {value.name for value in model.graph.input} - constants
    found: dict[str, str] = {}
    for node in model.graph.node:
        if alive.intersection(node.input):
            made = [name for name in node.output if name]
            alive.update(made)
            found.update((name, node.name or name) for name in made)
    return found


@contextmanager
def by_ort(model: onnx.ModelProto, tensors: Collection[str]) -> Iterator[Activations]:
    """ONNX Runtime, graph optimizations off: every tensor is computed as ONNX defines it.

    FP16 and BF16 tensors come as FP32, with the values that they have. Raises ModelError.
    """
    shown, names = _with_outputs(model, tensors)
    session = open_model(shown)

    def run(batch: Batch) -> Mapping[str, Array]:
        try:
            results = session.run(list(names.values()), dict(batch))
        except Exception as error:  # ONNX Runtime's errors share no base but this
            raise EngineError(f"ort: expected a run, got: {one_line(error)}; check the network's inputs") from error
        return dict(zip(names, results, strict=True))

    yield run


def _with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The network with these tensors as outputs, and what each is called there."""
    new = copy(model)
    graph = infer_shapes(new).graph
    known = {value.name: value for value in (*graph.value_info, *graph.output)}
    there = {value.name for value in new.graph.output}
    taken = set(use_counts(new)) | set(known)
    names: dict[str, str] = {}
    for tensor in tensors:
        names[tensor] = tensor
        # A value of unknown type may stay so: the runtime infers it.
        value = known.get(tensor, onnx.ValueInfoProto(name=tensor))
        if value.type.tensor_type.elem_type in _LOW:
            names[tensor] = fresh(f"{tensor}_shown", taken)
            new.graph.node.append(
                helper.make_node("Cast", [tensor], [names[tensor]], names[tensor], to=onnx.TensorProto.FLOAT)
            )
            value = helper.make_tensor_value_info(names[tensor], onnx.TensorProto.FLOAT, None)
        if value.name not in there:
            new.graph.output.append(value)
    return new, names


@contextmanager
def by_openvino(
    model: onnx.ModelProto, tensors: Collection[str], settings: OpenVinoEngine = _OPENVINO
) -> Iterator[Activations]:
    """OpenVINO on the CPU, as `build_openvino` makes its engine.

    A tensor that is asked for has to exist, so OpenVINO fuses less than it does in the engine itself; one that its own
    conversion has taken out is left out here, too.

    Several have to be closed in the reverse order: OpenVINO gives the thread a stack for signals, and puts the one
    before back when a network is released; one that is gone by then crashes the process at the next Ctrl-C (2026.4).

    Raises EngineError, MissingError.
    """
    import openvino

    try:
        graph = openvino.Core().read_model(with_fake_quantize(in_fp32(model)).SerializeToString())
    except Exception as error:  # OpenVINO's errors share no base but this
        raise EngineError(
            f"openvino: expected operators that OpenVINO knows, got: {one_line(error)}; change the network"
        ) from error
    wanted, there = set(tensors), set().union(*(port.get_names() for port in graph.outputs))
    known = set().union(*(port.get_names() for op in graph.get_ops() for port in op.outputs()))
    for name in sorted(wanted & known - there):
        graph.add_outputs(name)
    compiled = compile_openvino(graph, settings, "openvino")
    requests = [compiled.create_infer_request()]
    names = {name: index for index, port in enumerate(compiled.outputs) for name in port.get_names() if name in wanted}

    def run(batch: Batch) -> Mapping[str, Array]:
        try:
            results: Any = requests[0].infer(dict(batch), share_outputs=True)
        except Exception as error:  # OpenVINO's errors share no base but this
            raise EngineError(
                f"openvino: expected a run, got: {one_line(error)}; check the network's inputs"
            ) from error
        return {name: np.asarray(results[index]) for name, index in names.items()}

    try:
        yield run
    finally:
        # Here and now, whoever still holds `run`.
        requests.clear()
