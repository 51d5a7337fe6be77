"""A factorized network goes on: it imports, its factors train, it is quantized and runs on an engine."""

import numpy as np
import pytest

from avcompress.lowrank import factorize
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import KeepFloat, Ptq
from avcompress.recipe_lowrank import Factorize
from avcompress.spec import Artifact
from engines.network import weighted_nodes

torch = pytest.importorskip("torch")

LAYERS = {"a", "p", "q"}


@pytest.fixture(scope="module", params=["svd", "spatial_svd", "tucker2", "cp"])
def factorized(request, small_net, small_batches, mac_clock):
    """By one method, at ranks that save; p, which is 1x1, by svd."""
    rank = {"svd": 4, "spatial_svd": 4, "tucker2": (8, 8), "cp": 8}[request.param]
    settings = Factorize(kind="factorize", method=request.param, rank=rank, layers=("q",))
    return factorize(small_net, settings, small_batches, mac_clock).network


def test_it_imports_and_computes_the_same(factorized, small_batches, run):
    from avcompress.onnx_import import import_onnx

    module = import_onnx(factorized)

    x = small_batches[0]["x"]
    assert np.allclose(module(torch.from_numpy(x)).detach().numpy(), run(factorized, x), atol=1e-4)


def test_a_step_of_training_changes_every_factor_and_goes_back(factorized, small_net, small_batches, run):
    from avcompress.onnx_import import import_onnx, write_back

    module = import_onnx(factorized)
    x = torch.from_numpy(np.concatenate([batch["x"] for batch in small_batches]))
    target = torch.from_numpy(np.concatenate([run(small_net, batch["x"]) for batch in small_batches]))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.mse_loss(module(x), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    trained = write_back(module, factorized)

    assert losses[1] < losses[0]
    names = [item.name for item in factorized.graph.initializer if item.name.startswith("q.weight/")]
    before, after = ({i.name: i.raw_data for i in m.graph.initializer} for m in (factorized, trained))
    assert len(names) >= 2
    assert all(before[name] != after[name] for name in names)
    assert [node.name for node in trained.graph.node] == [node.name for node in factorized.graph.node]


def test_it_is_quantized_factor_by_factor(factorized, small_batches, run):
    settings = Ptq(kind="ptq", keep_float=KeepFloat(head=False, small_channels=0, depthwise=False))

    artifact = quantize(Artifact(factorized), settings, small_batches)

    precisions = {layer.name: layer.precision for layer in artifact.layers if layer.name.startswith("q/")}
    assert set(precisions.values()) == {"int8"}
    assert set(precisions) <= set(weighted_nodes(artifact.model))
    x = small_batches[0]["x"]
    expected = run(factorized, x)
    assert np.square(run(artifact.model, x) - expected).mean() < 0.05 * expected.var()
