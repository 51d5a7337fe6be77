"""engines.dialects.dla_layers: what DLA takes, by the numbers of NVIDIA's documentation."""

import numpy as np
import pytest

from engines.dialects.dla_layers import Facts, obstacle
from engines.onnx_graph import shapes
from engines.qdq import constant_values


def weight(*shape):
    return {"w": np.ones(shape, np.float32)}


ONE = {"s": np.float32([1, 1, 2, 2])}
TAKEN = [
    ("y = Conv<pads=[1,1,1,1], strides=[2,2], dilations=[1,1]>(x, w)", weight(8, 4, 3, 3)),
    ("y = Conv<group=4, pads=[4,4,4,4], dilations=[4,4]>(x, w)", weight(4, 1, 3, 3)),
    ("y = ConvTranspose<strides=[2,2]>(x, w)", weight(4, 8, 2, 2)),
    ("y = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(x)", {}),
    ("y = Relu(x)", {}),
    ("y = Clip(x, l, h)", {"l": np.float32(0), "h": np.float32(6)}),
    ("y = LeakyRelu<alpha=0.1>(x)", {}),
    ("y = PRelu(x, w)", weight(4, 1, 1)),
    ("a = Sigmoid(x) y = Mul(a, x)", {}),
    ("y = Mul(x, k)", {"k": np.ones((4, 1, 1), np.float32)}),
    ("y = Concat<axis=1>(x, x)", {}),
    ('y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , s)', ONE),
    ('y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, , s)', ONE),
    ("y = Slice(x, a, b, c)", {"a": np.int64([0]), "b": np.int64([2]), "c": np.int64([1])}),
    ("y = Softmax<axis=1>(x)", {}),
    ("y = Transpose<perm=[0,2,3,1]>(x)", {}),
    ("y = ReduceMax<axes=[2,3], keepdims=1>(x)", {}),
]
LEFT = [
    ("y = Gelu(x)", {}, "DLA has no Gelu", 20),
    ("y = Exp(x)", {}, "DLA has no Exp", 17),
    ("y = Conv<pads=[20,20,20,20]>(x, w)", weight(4, 4, 33, 33), "a kernel of 33, DLA takes 1 to 32", 17),
    ("y = Conv<strides=[9,1], pads=[2,2,2,2]>(x, w)", weight(4, 4, 3, 3), "a stride of 9, DLA takes 1 to 8", 17),
    ("y = Conv<pads=[3,3,3,3]>(x, w)", weight(4, 4, 3, 3), "a padding of 3, not less than the kernel", 17),
    ('y = Conv<auto_pad="SAME_UPPER">(x, w)', weight(4, 4, 3, 3), "auto_pad, whose padding is not stated", 17),
    ("w = Relu(x) y = Conv(x, w)", {}, "its weights are computed", 17),
    ("y = ConvTranspose<pads=[1,1,1,1]>(x, w)", weight(4, 8, 4, 4), "padding of 1, DLA takes 0 to 0", 17),
    ("y = ConvTranspose<group=2>(x, w)", weight(4, 2, 2, 2), "a group of 2, DLA takes 1 to 1", 17),
    ("y = ConvTranspose(x, w)", weight(4, 2, 23, 23), "a square kernel from 23 on", 17),
    ("y = MaxPool<kernel_shape=[9,9], pads=[4,4,4,4]>(x)", {}, "a window of 9, DLA takes 1 to 8", 17),
    ("y = Clip(x, l, h)", {"l": np.float32(-1), "h": np.float32(6)}, "it clips -1 to 6", 17),
    ("y = LeakyRelu<alpha=-0.1>(x)", {}, "a negative slope", 17),
    ("y = Concat<axis=2>(x, x)", {}, "it joins along axis 2, DLA along channels", 17),
    ('y = Resize<mode="cubic">(x, , s)', ONE, "mode cubic", 17),
    ('y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , s)', ONE, "align_corners", 17),
    (
        'y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, , s)',
        {"s": np.float32([1, 1, 1.5, 2])},
        "it resizes by 1.5 and 2, DLA by whole numbers up to 4",
        17,
    ),
    ("r = ReduceMean<axes=[1], keepdims=1>(x) y = Mul(x, r)", {}, "'r' is broadcast from 1x1x8x8", 17),
    ("y = Flatten(x)", {}, "'y' has 2 axes, DLA takes 4", 17),
    ("a = Transpose<perm=[1,0,2,3]>(x) y = Relu(a)", {}, "it changes the batch axis", 17),
    ("a = Relu(x) y = MatMul(x, a)", {}, "its second input is no constant", 17),
    ("y = LRN<size=4>(x)", {}, "a window of 4, DLA takes 3, 5, 7 and 9", 17),
    ("y = ReduceMax<axes=[2], keepdims=0>(x)", {}, "'y' has 3 axes", 17),
]


def facts(model):
    return Facts(shapes(model), constant_values(model))


@pytest.mark.parametrize(("body", "constants"), TAKEN)
def test_what_dla_takes(net, body, constants):
    model = net(body, constants)

    assert [obstacle(node, facts(model)) for node in model.graph.node] == [""] * len(model.graph.node)


@pytest.mark.parametrize(("body", "constants", "reason", "opset"), LEFT)
def test_what_it_leaves_to_the_gpu_and_why(net, body, constants, reason, opset):
    model = net(body, constants, opset=opset)
    if "LRN" not in body and "perm=[1" not in body:
        found = [obstacle(node, facts(model)) for node in model.graph.node][-1]
    else:
        found = obstacle(model.graph.node[0], facts(model))

    assert reason in found


def test_unknown_shapes_and_too_large_ones_are_left(net):
    model = net("y = Relu(x)", shape=(1, 4, 8, 8193))
    batch = net("y = Relu(x)", shape=(4097, 1, 1, 1))

    assert "an axis of 8193, DLA takes 8192" in obstacle(model.graph.node[0], facts(model))
    assert "a batch of 4097" in obstacle(batch.graph.node[0], facts(batch))
    assert obstacle(model.graph.node[0], Facts({}, {})) == "the shape of 'x' is not static"
