"""Small networks with every kind of weighted layer, float and with Q/DQ."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.files import sha256_file

Model = onnx.ModelProto
Quantize = Callable[[Model, Iterable[str]], Model]


def make_network(nodes, inputs, outputs, constants, opset=17):
    """An ONNX model from nodes, {input: shape}, {output: shape} and {constant: array}; all float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def with_qdq(model: Model, names: Iterable[str]) -> Model:
    """Symmetric INT8 Q/DQ on the first two inputs of the named nodes: weights per channel, activations per tensor."""
    model = Model.FromString(model.SerializeToString())
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes, chosen, done = [], set(names), {}

    def add(name, value):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for node in model.graph.node:
        for index, tensor in enumerate(node.input[:2] if node.name in chosen else []):
            if tensor in constants:
                new, made = _weight_qdq(f"{node.name}.w", constants[tensor], node.op_type, add)
                nodes.append(new)
            else:
                if tensor not in done:
                    nodes += _activation_qdq(tensor, add)
                made = done.setdefault(tensor, f"{tensor}.dequantized")
            node.input[index] = made
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    onnx.checker.check_model(model)
    return model


def _weight_qdq(name, weight, op, add):
    axis = 0 if op in {"Conv", "Gemm"} else 1
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.abs(weight).max(axis=others) / 127 + 1e-8).astype(np.float32)
    steps = weight / np.expand_dims(scale, others)
    inputs = [
        add(f"{name}.q", np.clip(np.round(steps), -127, 127).astype(np.int8)),
        add(f"{name}.s", scale),
        add(f"{name}.z", np.zeros(scale.shape, np.int8)),
    ]
    made = f"{name}.dequantized"
    return helper.make_node("DequantizeLinear", inputs, [made], name=f"{name}.dq", axis=axis), made


def _activation_qdq(tensor, add):
    scale, zero = add(f"{tensor}.s", np.float32(0.05)), add(f"{tensor}.z", np.int8(0))
    names = [f"{tensor}.quantized", f"{tensor}.dequantized"]
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], names[:1], name=f"{tensor}.Q"),
        helper.make_node("DequantizeLinear", [names[0], scale, zero], names[1:], name=f"{tensor}.DQ"),
    ]


@pytest.fixture(scope="session")
def network():
    """make_network: a small ONNX model from its parts."""
    return make_network


@pytest.fixture(scope="session")
def quantize() -> Quantize:
    """with_qdq: a copy of the model with Q/DQ on the named nodes."""
    return with_qdq


@pytest.fixture(scope="session")
def two_convs() -> Model:
    """Conv, Relu, Conv with a bias and a residual Add, Relu: x 1x16x16x16 -> y 1x32x16x16; weighted c1 and c2."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="c1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["ar"], name="r1"),
        helper.make_node("Conv", ["ar", "w2", "b1"], ["b"], name="c2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "ar"], ["s"], name="add"),
        helper.make_node("Relu", ["s"], ["y"], name="r2"),
    ]
    constants = {
        "w1": rng.normal(0, 0.1, (32, 16, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 0.1, (32, 32, 3, 3)).astype(np.float32),
        "b1": rng.normal(0, 0.1, 32).astype(np.float32),
    }
    return make_network(nodes, {"x": (1, 16, 16, 16)}, {"y": (1, 32, 16, 16)}, constants)


@pytest.fixture(scope="session")
def every_kind() -> Model:
    """One network with every kind of weighted layer that our pipelines meet; the names say which.

    image 1x3x32x32 and tokens 1x64x32 -> mask 1x8x64x64, classes 1x10, attended 1x64x32.
    """
    rng = np.random.default_rng(1)
    constants = {}

    def weight(*shape):
        constants[f"w{len(constants)}"] = rng.normal(0, 0.1, shape).astype(np.float32)
        return f"w{len(constants) - 1}"

    def node(op, inputs, output, **attributes):
        return helper.make_node(op, inputs, [output], name=attributes.pop("name", f"{output}.{op}"), **attributes)

    nodes = [
        node("Conv", ["image", weight(16, 3, 3, 3)], "f", name="first", pads=[1, 1, 1, 1]),
        node("Sigmoid", ["f"], "fs"),
        node("Mul", ["f", "fs"], "silu"),
        node("Conv", ["silu", weight(32, 16, 1, 1), weight(32)], "p", name="pointwise"),
        node("Relu", ["p"], "pr"),
        node("Conv", ["pr", weight(32, 1, 3, 3)], "d", name="depthwise", pads=[1, 1, 1, 1], group=32),
        node("Relu", ["d"], "dr"),
        node("Conv", ["dr", weight(32, 8, 3, 3)], "g", name="grouped", pads=[1, 1, 1, 1], group=4),
        node("Relu", ["g"], "gr"),
        node("Conv", ["gr", weight(32, 32, 3, 3), weight(32)], "e", name="residual", pads=[1, 1, 1, 1]),
        node("Add", ["e", "gr"], "ea"),
        node("Relu", ["ea"], "er"),
        node("Conv", ["er", weight(32, 32, 1, 1)], "l", name="left"),
        node("Relu", ["l"], "lr"),
        node("Conv", ["er", weight(32, 32, 1, 1)], "r", name="right"),
        node("Relu", ["r"], "rr"),
        node("Concat", ["lr", "rr"], "cat", axis=1),
        node("Conv", ["cat", weight(32, 64, 3, 3)], "h", name="dilated", pads=[2, 2, 2, 2], dilations=[2, 2]),
        node("Relu", ["h"], "hr"),
        node("ConvTranspose", ["hr", weight(32, 8, 2, 2)], "mask", name="transposed", strides=[2, 2]),
        node("GlobalAveragePool", ["hr"], "pool"),
        node("Flatten", ["pool"], "flat"),
        node("Gemm", ["flat", weight(10, 32), weight(10)], "classes", name="gemm", transB=1),
        node("MatMul", ["tokens", weight(32, 32)], "q", name="query"),
        node("MatMul", ["tokens", weight(32, 32)], "k", name="key"),
        node("MatMul", ["tokens", weight(32, 32)], "v", name="value"),
        node("Transpose", ["k"], "kt", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], "scores"),
        node("Softmax", ["scores"], "soft", axis=-1),
        node("MatMul", ["soft", "v"], "mixed"),
        node("MatMul", ["mixed", weight(32, 32)], "attended", name="projection"),
    ]
    outputs = {"mask": (1, 8, 64, 64), "classes": (1, 10), "attended": (1, 64, 32)}
    return make_network(nodes, {"image": (1, 3, 32, 32), "tokens": (1, 64, 32)}, outputs, constants)


@pytest.fixture(scope="session")
def whole_bundle(tmp_path_factory, two_convs, quantize) -> Callable[[str], Path]:
    """Unsigned bundles of the two quantized convolutions by backend; not to be changed."""
    from avcompress.contract import AccuracyTerm, Contract
    from avcompress.recipe import OpenVinoEngine, OrtEngine, Preprocess, RtxEngine, Segmentation
    from engines.build import build_engine
    from engines.manifest import Manifest, network_tensors, write_manifest

    root = tmp_path_factory.mktemp("bundles")
    engines = {
        "ort": OrtEngine(backend="ort"),
        "openvino": OpenVinoEngine(backend="openvino", threads=1),
        "trt_rtx": RtxEngine(backend="trt_rtx", compute_capabilities=("sm86",)),
    }

    def make(backend):
        folder = root / backend
        if folder.exists():
            return folder
        folder.mkdir()
        onnx.save(quantize(two_convs, ["c1", "c2"]), folder / "model.onnx")
        built = build_engine(folder / "model.onnx", folder / "engine", engines[backend])
        inputs, outputs = network_tensors(folder / "model.onnx")
        manifest = Manifest(
            name="tiny",
            revision=3,
            engine=engines[backend],
            versions={"avcompress": "0", **built.versions},
            inputs=inputs,
            outputs=outputs,
            preprocess=Preprocess(size=(16, 16)),
            task=Segmentation(kind="segmentation"),
            classes=("road", "car"),
            contract=Contract(accuracy=(AccuracyTerm(metric="mIoU", min=0.7),)),
            onnx_sha256=sha256_file(folder / "model.onnx"),
            recipe_sha256="0" * 64,
        )
        write_manifest(folder, manifest)
        return folder

    return make


@pytest.fixture(scope="session")
def key():
    """A private Ed25519 key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


@pytest.fixture
def signed_bundle(tmp_path, whole_bundle, key) -> Callable[[str], Path]:
    """Bundles by backend, signed by `key`: copies, so that a test may change them."""
    from engines.bundle import sign_bundle

    def make(backend):
        folder = tmp_path / backend
        shutil.copytree(whole_bundle(backend), folder)
        sign_bundle(folder, key)
        return folder

    return make
