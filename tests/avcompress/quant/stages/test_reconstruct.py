"""avcompress.quant.stages.reconstruct: blocks in torch against ONNX Runtime, and whole networks before and after."""

import builtins
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from avcompress.quant.int8_layers import int8_layers, read_grid, replace_constants
from avcompress.quant.learning.block_learning import learn_block
from avcompress.quant.learning.block_module import BlockModule
from avcompress.quant.learning.block_values import begin, choose_images, collect
from avcompress.quant.learning.blocks import cut, extract
from avcompress.quant.stages import reconstruct as module
from avcompress.quant.stages.ptq import quantize
from avcompress.quant.stages.reconstruct import learn, learnable_scales, reconstruct
from avcompress.recipe import KeepFloat, Ptq, Reconstruct
from avcompress.spec import Artifact, DataError, MissingError
from engines.in_memory import open_model
from engines.onnx_graph import infer_shapes, initializers, name_nodes, with_outputs

FAST = Reconstruct(kind="reconstruct", steps=200, learning_rate=3e-2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(small_batches):
    random = np.random.default_rng(5)
    return [*small_batches, *({"x": random.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(8))]


@pytest.fixture(scope="module")
def coarse(small_artifact):
    """The small network with weights rounded to nearest on a grid of -7 .. 7."""
    constants = initializers(small_artifact.reference)
    values = {}
    for layer in int8_layers(small_artifact):
        w = numpy_helper.to_array(constants[layer.float_weight])
        scale = np.abs(w).max(tuple(range(1, w.ndim))) / np.float32(7)
        values[layer.weight.scale_name] = scale
        values[layer.weight.tensor] = np.rint(w / scale.reshape(-1, *[1] * (w.ndim - 1)))
    return replace(small_artifact, model=replace_constants(small_artifact.model, values))


@pytest.fixture(scope="module")
def learned(coarse, images):
    return learn(coarse, FAST, images, (-7, 7))


def collected(artifact, block, chosen):
    return collect(artifact, [block], begin(artifact.reference, chosen))


def noise(artifact, seed=77):
    random = np.random.default_rng(seed)
    sessions = [open_model(model) for model in (artifact.model, artifact.reference)]
    batches = [{"x": random.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(8)]
    pairs = [[session.run(None, batch)[0] for session in sessions] for batch in batches]
    return sum(float(np.square(q - f).sum()) for q, f in pairs)


def scales(artifact):
    """The scale of every quantized activation, as the graph has it."""
    constants = initializers(artifact.model)
    found = {}
    for node in artifact.model.graph.node:
        if node.op_type == "QuantizeLinear":
            found[node.input[0]] = float(read_grid(node, constants).scale)
    return found


def test_the_error_on_other_images_falls(coarse, learned):
    assert noise(learned) < 0.75 * noise(coarse)


def test_the_graph_is_the_same_but_for_integers_and_scales(coarse, learned):
    old, new = initializers(coarse.model), initializers(learned.model)
    changed = {name for name in old if old[name] != new[name]}

    activations = {node.input[1] for node in coarse.model.graph.node if node.op_type == "QuantizeLinear"}
    assert changed <= {layer.weight.tensor for layer in int8_layers(coarse)} | activations
    assert changed & activations
    assert [n.SerializeToString() for n in coarse.model.graph.node] == [
        n.SerializeToString() for n in learned.model.graph.node
    ]
    onnx.checker.check_model(learned.model)


def test_the_parameters_say_what_the_graph_has(learned):
    assert scales(learned) == {name: learned.qparams[name].scale[0] for name in scales(learned)}


def test_tied_scales_stay_equal_and_as_they_were(small_artifact, images):
    """Two tensors of one scale: neither is learned."""
    (block,) = cut(small_artifact.reference, [layer.name for layer in int8_layers(small_artifact)])
    free = learnable_scales(small_artifact, block)
    assert sorted(free.values()) == ["r", "s", "x"]

    tied = replace(small_artifact, qparams={**small_artifact.qparams, "s": small_artifact.qparams["r"]})
    assert list(learnable_scales(tied, block).values()) == ["x"]


def test_a_scale_that_is_read_outside_of_the_block_is_left(small_artifact):
    (block,) = cut(small_artifact.reference, ["Conv_2"])

    assert "r" in learnable_scales(small_artifact, block).values()
    smaller = replace(block, nodes=("Conv_2",))
    assert not learnable_scales(small_artifact, smaller)  # r is also read by the addition


def test_a_block_in_torch_computes_what_onnx_runtime_does(small_artifact, small_batches):
    (block,) = cut(small_artifact.reference, [layer.name for layer in int8_layers(small_artifact)])
    part = extract(small_artifact.model, block.source, block.output)
    values = collected(small_artifact, block, [batch["x"] for batch in small_batches])

    ours = BlockModule(part, {}, ()).run(torch.from_numpy(np.concatenate(values.given))).numpy()
    theirs = np.concatenate([open_model(part).run(None, {"x": x})[0] for x in values.given])

    step = max(scales(small_artifact).values())
    assert np.abs(ours - theirs).max() < 2 * step  # sums differ in the last bit: a value at a tie goes the other way
    assert np.mean(np.abs(ours - theirs) < 1e-4) > 0.95


def test_what_torch_predicts_of_the_learned_block_is_what_onnx_runtime_gives(coarse, learned, images):
    chosen = choose_images(coarse.reference, images, FAST.seed)
    (block,) = cut(coarse.reference, [layer.name for layer in int8_layers(coarse)])
    values = collected(coarse, block, chosen)
    session = open_model(learned.model)
    errors = [
        np.square(session.run(None, {"x": x})[0] - y).mean()
        for x, y in zip(values.given[1::4], values.output[1::4], strict=True)
    ]
    line = learned.log[len(coarse.log) + 1]

    assert float(line.split(" -> ")[1].split()[0]) == pytest.approx(np.mean(errors), rel=0.05)


def test_with_drop_one_every_activation_stays_float(small_artifact, small_batches):
    (block,) = cut(small_artifact.reference, [layer.name for layer in int8_layers(small_artifact)])
    net = BlockModule(extract(small_artifact.model, block.source, block.output), {}, ())
    x = torch.from_numpy(small_batches[0]["x"])
    quantized = net.run(x)
    net.drop = 1.0
    constants = initializers(small_artifact.model)
    weights = {
        layer.float_weight: numpy_helper.to_array(constants[layer.weight.tensor])
        * layer.weight.broadcast(layer.weight.scale, 4)
        for layer in int8_layers(small_artifact)
    }
    float_net = replace_constants(small_artifact.reference, weights)

    expected = open_model(float_net).run(None, small_batches[0])[0]
    assert np.allclose(net.run(x).numpy(), expected, atol=1e-4)
    assert not np.allclose(quantized.numpy(), expected, atol=1e-4)


def test_a_scale_learns_by_the_papers_gradient():
    """LSQ: round(x/s) - x/s inside the range, the limit outside of it."""
    x = torch.tensor([0.26, 5.0, -9.0])
    log = torch.zeros((), requires_grad=True)
    scale = 0.1 * log.exp()
    steps = x / scale
    steps = steps + (steps.round() - steps).detach()
    values = steps.clamp(-8, 7) * scale

    gradients = [torch.autograd.grad(value, log, retain_graph=True)[0].item() / 0.1 for value in values]

    assert gradients == pytest.approx([3 - 2.6, 7, -8], abs=1e-4)


def test_a_block_that_learning_makes_worse_keeps_what_it_has(small_artifact, images):
    (block,) = cut(small_artifact.reference, [layer.name for layer in int8_layers(small_artifact)])
    values = collected(small_artifact, block, choose_images(small_artifact.reference, images, 0))
    wild = FAST.model_copy(update={"steps": 1, "learning_rate": 100.0})
    layers = int8_layers(small_artifact)

    part = module._part(small_artifact, block, layers, tuple(learnable_scales(small_artifact, block)))
    found = learn_block(part, values, wild)

    assert found.after == found.before
    assert not found.integers
    assert not found.scales


def test_where_the_networks_outputs_get_worse_all_is_kept(small_artifact, images, monkeypatch):
    """What is better block by block may be worse in the end."""
    monkeypatch.setattr("avcompress.output_error.output_errors", lambda *_: (0.1, 0.2))

    after = reconstruct(small_artifact, FAST.model_copy(update={"steps": 40}), images)

    assert (after.model, after.qparams) == (small_artifact.model, small_artifact.qparams)
    assert after.log[len(small_artifact.log)].endswith("(+3.0 dB), so that all is kept as it was")


def test_the_same_seed_gives_the_same_bytes_and_another_others(small_artifact, images):
    quick = FAST.model_copy(update={"steps": 40})
    first, second, other = (
        reconstruct(small_artifact, quick.model_copy(update={"seed": seed}), images).model.SerializeToString()
        for seed in (3, 3, 4)
    )

    assert first == second
    assert first != other


def test_images_are_an_even_sample_of_bounded_size(small_net, monkeypatch):
    batches = [{"x": np.full((2, 3, 12, 12), i, np.float32)} for i in range(100)]

    chosen = choose_images(small_net, batches, 0)

    assert len(chosen) == 32
    assert chosen[0].shape == (1, 3, 12, 12)
    assert 30 < np.mean(chosen) < 70
    monkeypatch.setattr("avcompress.quant.learning.block_values.IMAGES_BYTES", 5 * chosen[0].nbytes)
    assert len(choose_images(small_net, batches, 0)) == 5


def test_a_block_takes_no_more_images_than_fit(small_artifact, images, monkeypatch):
    (block,) = cut(small_artifact.reference, [layer.name for layer in int8_layers(small_artifact)])
    chosen = choose_images(small_artifact.reference, images, 0)
    monkeypatch.setattr("avcompress.quant.learning.block_values.BLOCK_BYTES", 5 * (2 * 3 + 4) * 144 * 4)

    assert len(collected(small_artifact, block, chosen).given) == 5


WINDOWS = """
<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,12,12] x) => (float[1,4,144] y) {
    c = Conv (x, wc)  t = Reshape (c, rows)  p = Transpose <perm = [0,2,1]> (t)  w = Reshape (p, windows)
    q = MatMul (w, wq)  k = MatMul (w, wk)  kt = Transpose <perm = [0,2,1]> (k)  s = MatMul (q, kt)
    a = Softmax <axis = -1> (s)  o = MatMul (a, w)  r = MatMul (o, wr)  z = MatMul (r, wz)
    b = Reshape (z, back)  y = Transpose <perm = [0,2,1]> (b)
}
"""
WEIGHTS = {"wc": (8, 3, 1, 1), "wq": (8, 8), "wk": (8, 8), "wr": (8, 8), "wz": (8, 4)}
RESHAPES = {"rows": [1, 8, 144], "windows": [9, 16, 8], "back": [1, 144, 4]}


@pytest.mark.parametrize("together", [1, 4], ids=["blocks of windows", "blocks of images"])
def test_windows_of_attention_are_learned_image_by_image(parsed, images, monkeypatch, together):
    """A window counts as an image: nine times as many of them as of images, the number is stored in a reshape."""
    model = parsed(WINDOWS, WEIGHTS)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(values, np.int64), name) for name, values in RESHAPES.items()
    )
    monkeypatch.setattr("avcompress.quant.learning.blocks.TOGETHER", together)
    settings = Ptq(kind="ptq", keep_float=KeepFloat(head=False))
    artifact = quantize(Artifact(infer_shapes(name_nodes(model))), settings, images)

    after = learn(artifact, FAST.model_copy(update={"steps": 20}), images, (-7, 7))

    assert [line for line in after.log if "error on held-out images" in line]
    blocks = cut(artifact.reference, [layer.name for layer in int8_layers(artifact)])
    passages = begin(artifact.reference, [image["x"] for image in images])
    for i, block in enumerate(blocks):
        values = collect(artifact, blocks[i:], passages)
        names = [name for name in (block.source, block.output) if name != "x"]
        run = open_model(with_outputs(artifact.reference, names)).run(names, images[0])
        found = {"x": images[0]["x"], **dict(zip(names, run, strict=True))}
        assert values.wanted[0] == pytest.approx(found[block.source], abs=1e-3)
        assert values.output[0] == pytest.approx(found[block.output], abs=1e-3)


@pytest.mark.parametrize("kept", [1 << 20, 0], ids=["kept", "computed again"])
def test_blocks_read_what_the_networks_compute_as_they_are_by_then(small_artifact, images, monkeypatch, kept):
    """The second block's input: of the network whose first block has changed in between."""
    monkeypatch.setattr("avcompress.quant.learning.block_values.KEPT_BYTES", kept)
    monkeypatch.setattr("avcompress.quant.learning.blocks.TOGETHER", 1)
    blocks = cut(small_artifact.reference, [layer.name for layer in int8_layers(small_artifact)])
    assert [(block.source, block.output) for block in blocks] == [("x", "r"), ("r", "s"), ("s", "y")]
    passages = begin(small_artifact.reference, [image["x"] for image in images])
    collect(small_artifact, blocks, passages)
    weight = int8_layers(small_artifact)[0].weight.tensor
    halved = numpy_helper.to_array(initializers(small_artifact.model)[weight]) // 2
    changed = replace(small_artifact, model=replace_constants(small_artifact.model, {weight: halved}))

    values = collect(changed, blocks[1:], passages)

    for i, image in enumerate(images):
        (given,) = open_model(with_outputs(changed.model, ["r"])).run(["r"], image)
        wanted, output = open_model(with_outputs(changed.reference, ["r", "s"])).run(["r", "s"], image)
        assert np.array_equal(values.given[i], given)
        assert np.allclose(values.wanted[i], wanted, atol=1e-5)
        assert np.allclose(values.output[i], output, atol=1e-5)


def test_nothing_before_a_block_is_run_again(small_artifact, images, monkeypatch):
    monkeypatch.setattr("avcompress.quant.learning.blocks.TOGETHER", 1)
    blocks = cut(small_artifact.reference, [layer.name for layer in int8_layers(small_artifact)])
    passages = begin(small_artifact.reference, [image["x"] for image in images])
    for number in range(2):
        collect(small_artifact, blocks[number:], passages)
    opened = []
    monkeypatch.setattr(
        "avcompress.quant.learning.block_values.open_model", lambda model, _: opened.append(model) or open_model(model)
    )

    collect(small_artifact, blocks[2:], passages)

    # The quantized network from r to s, the float one from s to y.
    assert [[node.name for node in model.graph.node if "Conv" in node.name] for model in opened] == [
        ["Conv_4"],
        ["Conv_2"],
    ]


def test_one_image_is_enough(small_artifact, small_batches):
    log = reconstruct(small_artifact, FAST.model_copy(update={"steps": 5}), small_batches[:1]).log

    assert "3 layers in 1 blocks, on 1 images" in log[len(small_artifact.log)]


def test_no_image_is_refused(small_artifact):
    with pytest.raises(DataError, match="at least one image"):
        reconstruct(small_artifact, FAST, [])


def test_missing_torch_is_named_with_its_command(small_artifact, small_batches, monkeypatch):
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(MissingError, match=r'reconstruct: expected torch.*pip install "avcompress\[train\]"'):
        reconstruct(small_artifact, FAST, small_batches)
