"""Zeros that become more while a network trains."""

import numpy as np
import torch

from avcompress.onnx_import import import_onnx
from avcompress.prune.schedule import Rise
from avcompress.prune.sparsity import growing_zeros


def test_what_is_zero_stays_where_nothing_pulls_at_other_weights_either(chain):
    """All scores are 0, and of equal ones the later ones go: but for the zeros, which come before."""
    module = import_onnx(chain([[0.0, 1], [2, 3]], [[1.0, 1]]))
    path = module.meta["parameters"]["first.weight"]

    def nothing(_trained):
        return {"first.weight": np.zeros((2, 2, 1, 1))}

    zeros = growing_zeros(module, ["first.weight"], Rise(0, 1, 0.5), scores_of=nothing)
    zeros.grow_(module, 1)

    assert torch.equal(module.get_parameter(path).detach().flatten(), torch.tensor([0.0, 1, 2, 0]))
