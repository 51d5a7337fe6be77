"""From a torch module to ONNX and to safetensors; an export counts once ONNX Runtime has reproduced its numbers."""

from __future__ import annotations

import contextlib
import linecache
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from avcompress.modes import evaluating
from avcompress.outputs import named_outputs
from avcompress.spec import Array, ModelError
from engines.in_memory import open_model
from engines.onnx_graph import check, first_line, fold_constants, infer_shapes, name_nodes
from engines.onnx_load import with_measured_shapes

OPSET = 17  # the newest that TensorRT 8.6 parses
TOLERANCE = 1e-4
SEED = 0
OTHER_IMAGES = ((0.1, 0.0), (10.0, 0.0), (1.0, 3.0), (1.0, -3.0), (0.0, 0.0))
"""Factor and offset of the images on which Python code that decides by values is tried."""
PARAMETER_INPUTS = {1: "weight", 2: "bias"}


def to_onnx(
    module: nn.Module, input_size: tuple[int, int], input_name: str = "images", keep_norms: bool = False
) -> onnx.ModelProto:
    """Export a module for one (1, 3, height, width) float32 image, in eval mode; the module itself stays as it is.

    A returned tensor is named `output`, the items of a sequence `output_0`, `output_1` ..., those of a mapping by their
    keys; nested ones join the names. Nodes keep the module's scopes (`/level1/conv/Conv`), initializers the parameters'
    names; batch normalization is folded into a convolution before it, or stays a node of its own with `keep_norms`.
    Raises ModelError when the module does not run or export, when ONNX Runtime gives other numbers than torch, or when
    Python code takes another way for another image.
    """
    height, width = input_size
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(SEED))
    with _plain_attention(), _flat_outputs(module) as names, torch.no_grad():
        with _decisions() as decisions:
            expected = _run(module, image)
            model = _export(module, image, input_name, names, keep_norms)
        others = list(_others(module, image)) if decisions else []
    # The exporter turns equal parameters into one and copies of it: each gets its own back, under its own name.
    model = name_nodes(fold_constants(model))
    _name_parameters_(model)
    # Shapes that the graph computes at run time, as chunk and flatten do, would leave layers without MACs.
    model = check(with_measured_shapes(infer_shapes(model)))
    _compare(model, {input_name: image.numpy()}, dict(zip(names, expected, strict=True)))
    for other, results in others:
        _compare(model, {input_name: other.numpy()}, dict(zip(names, results, strict=True)), decisions[0])
    return model


def state_to_safetensors(module: nn.Module) -> bytes:
    """The module's state dict; tied tensors are stored once each, the same state gives the same bytes."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    return bytes(safetensors.torch.save(state))


def load_state_(module: nn.Module, data: bytes) -> None:
    """Load what state_to_safetensors gave for a module of the same kind; raises ModelError when it does not fit."""
    try:
        module.load_state_dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"checkpoint: expected the state of this {type(module).__name__}, got {_kind_and_line(error)}; "
            "start again without --resume"
        ) from error


@contextlib.contextmanager
def _decisions() -> Iterator[list[str]]:
    """Yield where Python code reads a tensor's value, filled when the block ends: the user's lines first.

    It may decide by it, count loops by it, or compute with it what the export then holds as a constant.

    The exporter's warnings go no further: what they fear is what the comparison afterwards measures.
    """
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    tracer = [w for w in caught if issubclass(w.category, TracerWarning) and "Converting a tensor" in str(w.message)]
    ours = Path(torch.__file__).parent
    for warning in sorted(tracer, key=lambda w: ours in Path(w.filename).parents):
        line = linecache.getline(warning.filename, warning.lineno).strip()
        found.append(f"{warning.filename}:{warning.lineno} ({line})")


def _others(module: nn.Module, image: Tensor) -> Iterator[tuple[Tensor, list[Array]]]:
    """Other images, darker, brighter, flat, and what the module makes of them; those that it refuses are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for factor, offset in OTHER_IMAGES:
            other = image * factor + offset
            with contextlib.suppress(ModelError):
                yield other, _run(module, other)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Let nn.MultiheadAttention and transformer layers run as operators that have an export, not as one kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _flat_outputs(module: nn.Module) -> Iterator[list[str]]:
    """Put a module into eval mode and let it return a flat tuple; yields the names, filled by the first call.

    A hook rather than a module around it: that would put its own scope before every name.
    """
    names: list[str] = []

    def flatten(_module: nn.Module, _inputs: Any, result: Any) -> tuple[Tensor, ...]:
        flat = dict(named_outputs(result))
        names[:] = flat
        return tuple(flat.values())

    hook = module.register_forward_hook(flatten)
    try:
        with evaluating(module):
            yield names
    finally:
        hook.remove()


def _run(module: nn.Module, image: Tensor) -> list[Array]:
    shape = tuple(image.shape)
    try:
        outputs = module(image)
    except ModelError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise ModelError(
            f"model: expected it to run on {shape} float32, got {_kind_and_line(error)}; "
            "check preprocess.size and model.args"
        ) from error
    if not outputs:
        raise ModelError("model: expected it to return at least one tensor, got none; return tensors in eval mode")
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise ModelError("model: expected finite outputs for a random image, got NaN or infinity; check the weights")
    return [output.numpy() for output in outputs]


def _export(module: nn.Module, image: Tensor, input_name: str, names: list[str], keep_norms: bool) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        _export_to(path, module, image, (input_name, names), keep_norms)
        return onnx.load(path)


def _export_to(path: Path, module: nn.Module, image: Tensor, names: tuple[str, list[str]], keep_norms: bool) -> None:
    # The module is in eval mode already; told so, the exporter would fold normalization.
    mode = torch.onnx.TrainingMode.PRESERVE if keep_norms else torch.onnx.TrainingMode.EVAL
    try:
        # TorchScript, not dynamo: that one needs onnxscript, renames the nodes, and gives no opset below 18.
        torch.onnx.export(
            module,
            (image,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[names[0]],
            output_names=list(names[1]),
            training=mode,
        )
    except Exception as error:  # whatever the exporter or the user's code raises under tracing
        raise ModelError(
            f"model: expected an export to ONNX opset {OPSET}, got {_kind_and_line(error)}; "
            "rewrite that operation, or export it yourself and give `model.onnx`"
        ) from error


def _name_parameters_(model: onnx.ModelProto) -> None:
    """Name a folded constant like the parameter it was: 'onnx::Conv_447' of /level1/conv/Conv is level1.conv.weight."""
    graph = model.graph
    taken = {item.name for item in (*graph.initializer, *graph.input)} | {o for node in graph.node for o in node.output}
    folded = {item.name for item in graph.initializer if item.name.startswith("onnx::")}
    new: dict[str, str] = {}
    for node in graph.node:
        for index, kind in PARAMETER_INPUTS.items():
            old = node.input[index] if index < len(node.input) else ""
            name = f"{_module_path(node.name)}.{kind}"
            if old in folded and old not in new and name not in taken:
                new[old] = name
                taken.add(name)
    for initializer in graph.initializer:
        initializer.name = new.get(initializer.name, initializer.name)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]


def _module_path(node_name: str) -> str:
    """The dotted path of the module that a node came from: '/a/a.0/conv/Conv' -> 'a.0.conv'."""
    path: list[str] = []
    for scope in node_name.strip("/").split("/")[:-1]:
        # The children of a Sequential repeat its name.
        if path and scope.startswith(f"{path[-1]}."):
            path.pop()
        path.append(scope)
    return ".".join(path) or "parameter"


def _compare(
    model: onnx.ModelProto, feeds: Mapping[str, Array], expected: Mapping[str, Array], decision: str | None = None
) -> None:
    """Hold ONNX Runtime against torch; `decision`: where Python code decides by values, for another image."""
    session = open_model(model)
    try:
        outputs = session.run(list(expected), dict(feeds))
    except Exception as error:  # ONNX Runtime's exceptions share no base but this
        raise ModelError(f"model: expected ONNX Runtime to run the export, got {_kind_and_line(error)}") from error
    for (name, reference), output in zip(expected.items(), outputs, strict=True):
        difference = _relative_error(output, reference)
        if not difference <= TOLERANCE and decision is not None:
            raise ModelError(
                f"model: expected the same operations for every image, got a decision by values at {decision}, "
                f"which changes '{name}' by {difference:.3g}; compute both ways and choose with torch.where"
            )
        if not difference <= TOLERANCE:
            raise ModelError(
                f"model: export changed the numbers: expected '{name}' within {TOLERANCE:g} of torch, "
                f"got {difference:.3g}; look for random operations, and for Python code that depends on values"
            )


def _relative_error(output: Array, reference: Array) -> float:
    """The largest difference over the reference's largest magnitude; for whole numbers the share that differ."""
    if output.shape != reference.shape:
        return float("inf")
    if not reference.size:
        return 0.0
    if not np.issubdtype(reference.dtype, np.floating):
        return float(np.mean(output != reference))
    scale = float(np.abs(reference).max()) or 1.0
    return float(np.abs(output.astype(np.float64) - reference).max()) / scale


def _kind_and_line(error: Exception) -> str:
    kind, line = type(error).__name__, first_line(error)
    return f"{kind}: {line[:200]}" if line != kind else kind
