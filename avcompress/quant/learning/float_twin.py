"""The float network that a trained quantized one stands for: what its layers compute where they are not quantized."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx

from avcompress.quant.learning.qat_module import Site
from avcompress.quant.learning.quantizers import QuantizedWeight, Scaled
from avcompress.spec import Artifact
from engines.onnx_graph import copy, drop_unused_initializers, initializers


@torch.no_grad()
def float_twin(artifact: Artifact, module: fx.GraphModule) -> onnx.ModelProto:
    """The artifact's float network with what a trained `qat_module` of it has learned.

    Weights are those before they are rounded, biases those that go with them. Nodes and tensors keep their names; where
    a repair has given a layer a bias of its own, the twin's has it, too.
    """
    new = copy(artifact.reference)
    stored = initializers(new)
    for name, value in {**dict(_weights(module)), **_beside_(new, artifact.model, module)}.items():
        if name not in stored:
            stored[name] = new.graph.initializer.add()
            stored[name].data_type = onnx.TensorProto.FLOAT
        dtype = onnx.helper.tensor_dtype_to_np_dtype(stored[name].data_type)
        stored[name].CopyFrom(numpy_helper.from_array(np.array(value.cpu().numpy(), dtype, order="C"), name))
    return drop_unused_initializers(new)


def _weights(module: fx.GraphModule) -> Iterator[tuple[str, Tensor]]:
    """Of every quantized weight, by its name in the float network."""
    sites: tuple[Site, ...] = module.meta["sites"]
    for site in sites:
        held = module.get_submodule(site.quantizer)
        if isinstance(held, QuantizedWeight):
            yield site.tensor, held.steps * held.unit


def _beside_(twin: onnx.ModelProto, model: onnx.ModelProto, module: fx.GraphModule) -> dict[str, Tensor]:
    """Let every node read the constants that it reads in the quantized network, and give what has become of them."""
    places: dict[str, tuple[str, ...]] = module.meta["constants"]
    nodes = {node.name: node for node in model.graph.node}
    found = {}
    for node in twin.graph.node:
        inputs = nodes[node.name].input if node.name in nodes else ()
        for index, name in enumerate(inputs):
            if name in places:
                node.input[index : index + 1] = [name]
                found[name] = _value(module, *places[name])
    return found


def _value(module: fx.GraphModule, path: str, *beside: str) -> Tensor:
    """Of a constant that is not quantized; a bias is that which goes with the weight before it is rounded."""
    weights = [cast(Scaled, module.get_submodule(other)) for other in beside]
    value: Tensor = module.get_submodule(path)(*(weight.steps * weight.unit for weight in weights))
    return value
