"""avcompress.rewrite on every network of the zoo, by ONNX Runtime and by torch."""

import numpy as np
import onnx
import torch

from avcompress.onnx_import import import_onnx
from avcompress.rewrite import RULES
from engines.in_memory import open_model
from engines.onnx_graph import fold_constants, infer_shapes, name_nodes

IMAGE = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)


def answers(network):
    return open_model(network, threads=1).run(None, {network.graph.input[0].name: IMAGE})


def near(found, right):
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(other).max()))


def test_exact_rules_change_no_answer_and_the_other_one_can_be_trained(onnx_network, architecture):
    network = infer_shapes(name_nodes(fold_constants(onnx_network(architecture))))
    changes = {name: rule(network, lambda _: True) for name, rule in RULES.items()}

    for name in ("full_rank", "strided_conv"):
        if changes[name].nodes:
            near(answers(changes[name].network), answers(network))
            used = {each for node in changes[name].network.graph.node for each in node.input}
            assert used >= {tensor.name for tensor in changes[name].network.graph.initializer}

    hard = changes["hard_swish"].network
    if changes["hard_swish"].nodes:
        onnx.checker.check_model(hard)
        module = import_onnx(hard)
        outputs = module(torch.from_numpy(IMAGE))
        outputs = outputs.values() if isinstance(outputs, dict) else outputs
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        near([each.detach().numpy() for each in outputs], answers(hard))
        sum(each.square().sum() for each in outputs).backward()
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
