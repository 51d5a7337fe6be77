"""One image through the float network and its decoding, so that what does not fit is found before the work."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from avcompress.running.bench import Bench
from avcompress.spec import Array, EngineError
from engines.in_memory import open_model
from engines.onnx_graph import with_outputs
from engines.ort import open_ort
from engines.postprocess import check_output
from validation.predict import stages


def rehearse(bench: Bench, network: onnx.ModelProto, name: str) -> None:
    """Take the first validation image through a float network; `name` is what the user calls it.

    Raises EngineError for a network that does not run, a tensor that is not finite, an output that the task cannot
    decode, or that has other classes than the recipe.
    """
    task, preprocess = bench.recipe.task, bench.recipe.preprocess
    sample = next(iter(bench.validation))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(network.SerializeToString())
        try:
            session = open_ort(path)
        except EngineError as error:
            raise type(error)(str(error).replace(str(path), name)) from error
        with session:
            functions = stages(session, preprocess, task)
            image = functions["preprocess"](sample.image)
            placed = functions["inference"](image)
            if not all(_finite(output) for output in placed.value.values()):
                _refuse_first(network, image.value, f"image {sample.name}")
            functions["postprocess"](placed)
    ((output, values),) = placed.value.items()
    check_output(output, values.shape, task, preprocess.size, len(bench.classes))


def _refuse_first(network: onnx.ModelProto, image: Array, where: str) -> None:
    """Raise EngineError for the first tensor of which a value is not finite: the ones after it may only follow."""
    stated = (*network.graph.value_info, *network.graph.output)
    floats = {value.name for value in stated if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    makers = {output: node for node in network.graph.node for output in node.output if output in floats}
    session = open_model(with_outputs(network, makers))
    found = session.run(list(makers), {network.graph.input[0].name: image})
    for (tensor, node), values in zip(makers.items(), found, strict=True):
        if not _finite(values):
            raise EngineError(
                f"{tensor!r}, {where}: expected finite values, got NaN or infinity from {node.op_type} {node.name!r}; "
                "check the network's weights and the recipe's preprocess"
            )


def _finite(values: Array) -> bool:
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
