"""A builder of small networks as other tools leave them: Q/DQ of any type, anywhere."""

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

PADS = [1, 1, 1, 1]
ZERO = np.int8(0)


class Net:
    """A network in the making; every method returns the name of the tensor that it adds."""

    def __init__(self, opset=17, **inputs):
        self.nodes, self.values, self.opset, self.count = [], [], opset, 0
        shapes = inputs or {"x": (1, 16, 16, 16)}
        self.inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        self.rng = np.random.default_rng(0)

    def fresh(self, prefix):
        self.count += 1
        return f"{prefix}{self.count}"

    def constant(self, value, name=None):
        name = name or self.fresh("k")
        if isinstance(value, TensorProto):
            value.name = name
        self.values.append(
            value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        )
        return name

    def op(self, kind, *inputs, name=None, outputs=1, domain="", **attributes):
        made = [self.fresh("t") for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, name or self.fresh(kind), domain=domain, **attributes))
        return made[0] if outputs == 1 else made

    def floats(self, *shape):
        return self.constant(self.rng.normal(0, 0.1, shape).astype(np.float32))

    def qdq(self, tensor, scale=0.05, zero=ZERO, domain="", **attributes):
        """Q/DQ; `zero` None leaves the zero point out."""
        scale = self.constant(scale if isinstance(scale, np.ndarray) else np.float32(scale))
        grid = [scale] if zero is None else [scale, self.constant(zero)]
        quantized = self.op("QuantizeLinear", tensor, *grid, domain=domain, **attributes)
        return self.op("DequantizeLinear", quantized, *grid, domain=domain, **attributes)

    def weight(self, *shape, axis=0, zero=ZERO):
        """Stored integers and a DequantizeLinear, per channel unless `axis` is None."""
        info = np.iinfo(zero.dtype)
        values = self.rng.integers(max(info.min, -127), min(info.max, 255), shape, endpoint=True).astype(zero.dtype)
        count = () if axis is None else (shape[axis],)
        scale = self.rng.uniform(0.001, 0.002, count).astype(np.float32)
        grid = [self.constant(scale), self.constant(np.full(count, zero))]
        extra = {} if axis is None else {"axis": axis}
        return self.op("DequantizeLinear", self.constant(values), *grid, **extra)

    def conv(self, tensor, out=32, size=16, name="c1", data=None, weight=None, bias=None, **attributes):
        """A 3x3 convolution, quantized unless its input and weight are given."""
        group = attributes.get("group", 1)
        data = self.qdq(tensor) if data is None else data
        weight = self.weight(out, size // group, 3, 3) if weight is None else weight
        operands = [data, weight] if bias is None else [data, weight, bias]
        return self.op("Conv", *operands, name=name, pads=PADS, **attributes)

    def silu(self, tensor):
        return self.op("Mul", tensor, self.op("Sigmoid", tensor))

    def model(self, *outputs, kind=TensorProto.FLOAT, domains=()):
        made = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, made, self.values)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if self.opset > 19 else 9)
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            made = onnx.shape_inference.infer_shapes(model).graph.output
            del model.graph.output[:]
            model.graph.output.extend(made)
        for output in model.graph.output:
            if not output.type.tensor_type.HasField("shape"):  # behind an operator that ONNX does not know
                output.type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension(dim_param=d) for d in "nchw"])
        return onnx.ModelProto.FromString(model.SerializeToString())


@pytest.fixture(scope="session")
def net():
    """Net: the class, for tests to make theirs."""
    return Net
