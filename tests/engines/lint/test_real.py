"""Real networks, as we and as other tools quantize them: what lint says against what TensorRT-RTX does."""

import io
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import place
from avcompress.recipe import KeepFloat, RtxEngine
from avcompress.spec import QuantParams
from engines.layer_map import layer_precisions, parse_layers
from engines.lint import fix, lint
from engines.lint.layers import layers
from engines.lint.view import views
from engines.network import weighted_nodes
from engines.onnx_graph import infer_shapes, name_nodes
from engines.qdq import insert_qdq
from engines.tensorrt.build import rtx_settings
from engines.tensorrt.configure import RefusedError
from engines.tensorrt.worker import compile_network

pytestmark = [pytest.mark.slow, pytest.mark.rtx]
TARGET = "tensorrt-rtx"
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
SETTINGS = {
    "defaults": {},
    "uint8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "symmetric": {"per_channel": True, "extra_options": SYMMETRIC},
    "symmetric, int32 biases": {"per_channel": True, "extra_options": SYMMETRIC | {"QuantizeBias": True}},
    "uint16": {"activation_type": QuantType.QUInt16},
    "QOperator": {"quant_format": QuantFormat.QOperator},
}
REPAIRABLE = ["defaults", "uint8", "symmetric", "symmetric, int32 biases"]


@pytest.fixture(scope="module")
def yolox(data_root):
    model = version_converter.convert_version(onnx.load(data_root / "models" / "yolox_nano.onnx"), 17)
    return infer_shapes(name_nodes(model))


class Noise(CalibrationDataReader):
    """One image of noise."""

    def __init__(self, value):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        self.left = [{value.name: np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)}]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module")
def quantized(yolox, tmp_path_factory):
    """The detector as ONNX Runtime's own tool quantizes it."""
    folder = tmp_path_factory.mktemp("quantized")
    onnx.save(yolox, folder / "float.onnx")
    made = {}
    logging.disable(logging.WARNING)  # it advises to run its preprocessing first
    for name, options in SETTINGS.items():
        out = folder / f"{name}.onnx"
        quantize_static(folder / "float.onnx", out, Noise(yolox.graph.input[0]), **options)
        made[name] = onnx.load(out)
    logging.disable(logging.NOTSET)
    return made


def compile_rtx(model, folder):
    """What TensorRT-RTX makes of a model: each layer's type, or None where it refuses."""
    onnx.save(model, folder / "net.onnx")
    log = io.StringIO()
    try:
        settings = rtx_settings(RtxEngine(backend="trt_rtx", compute_capabilities=("sm86",)))
        compile_network(folder / "net.onnx", folder, settings, log.write, log.write)
    except RefusedError:
        return None
    return layer_precisions(parse_layers(log.getvalue()), weighted_nodes(model))


def predicted(model):
    return {layer.node.name: "int8" if layer.int8 else "fp32" for layer in layers(next(views(model)))}


def severities(model):
    return {finding.severity for finding in lint(model, TARGET)}


@pytest.mark.parametrize("name", SETTINGS)
def test_lint_and_tensorrt_rtx_agree_on_what_onnxruntime_s_tool_makes(quantized, name, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    model = name_nodes(quantized[name])

    built = compile_rtx(model, tmp_path)

    assert (built is None) == ("refused" in severities(model))
    assert built is None or built == predicted(model)


@pytest.mark.parametrize("name", REPAIRABLE)
def test_what_is_repaired_is_accepted_and_int8(quantized, name, tmp_path):
    pytest.importorskip("tensorrt_rtx")

    model = name_nodes(fix(quantized[name], TARGET).model)

    built = compile_rtx(model, tmp_path)
    assert severities(model) == {"slower"}
    assert built == predicted(model)
    assert set(built.values()) == {"int8"}


def test_repaired_defaults_still_follow_what_was_quantized_and_the_float_network(quantized, yolox):
    image = Noise(yolox.graph.input[0]).get_next()

    def run(model):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, image)[0]

    before = run(quantized["defaults"])
    after = run(fix(quantized["defaults"], TARGET).model)
    reference = run(yolox)

    assert np.corrcoef(reference.ravel(), after.ravel())[0, 1] > 0.9
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("depthwise", [True, False])
def test_nothing_is_refused_or_changed_in_what_we_place(yolox, depthwise, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    placement = place(graph_view(yolox), KeepFloat(depthwise=depthwise))
    constants = {tensor.name: tuple(tensor.dims) for tensor in yolox.graph.initializer}
    sites = [*placement.activations, *placement.weights]
    scales = {
        site.tensor: (0.02,) * (constants[site.tensor][site.axis] if site.axis is not None else 1) for site in sites
    }
    qparams = {s.tensor: QuantParams(scales[s.tensor], (0,) * len(scales[s.tensor]), axis=s.axis) for s in sites}
    model = insert_qdq(yolox, [edge for site in sites for edge in site.edges], qparams)

    built = compile_rtx(model, tmp_path)

    assert severities(model) <= {"slower"}
    assert built == predicted(model)
    assert built == {layer.name: "int8" if layer.precision == "int8" else "fp32" for layer in placement.layers}
