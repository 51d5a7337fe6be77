"""The dialects on a real detector: each one is built, or computed, here as far as that goes without a device."""

import io
import json

import numpy as np
import onnx
import pytest
from onnx import version_converter

from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import place
from avcompress.recipe import KeepFloat, RtxEngine
from avcompress.spec import QuantParams, TensorRange
from engines.dialects import DialectSettings, express
from engines.dialects.calibration_cache import read_cache
from engines.dialects.implicit_reference import as_explicit
from engines.in_memory import open_model
from engines.layer_map import layer_precisions, parse_layers
from engines.network import weighted_nodes
from engines.onnx_graph import infer_shapes, initializers, name_nodes, with_outputs
from engines.qdq import insert_qdq
from engines.tensorrt.build import rtx_settings
from engines.tensorrt.worker import compile_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def float_network(data_root):
    model = version_converter.convert_version(onnx.load(data_root / "models" / "yolox_nano.onnx"), 17)
    return infer_shapes(name_nodes(model))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)


@pytest.fixture(scope="module")
def ranges(float_network, image):
    """The range of every activation on one image of noise."""
    names = [name for node in float_network.graph.node for name in node.output]
    values = zip(names, open_model(with_outputs(float_network, names)).run(names, {"images": image}), strict=True)
    found = {name: TensorRange((float(v.min()),), (float(v.max()),)) for name, v in values if v.dtype == np.float32}
    return found | {"images": TensorRange((0.0,), (255.0,))}


@pytest.fixture(scope="module")
def quantized(float_network, ranges):
    placement = place(graph_view(float_network), KeepFloat(depthwise=True))
    weights = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in initializers(float_network).items()}
    qparams = {}
    for site in placement.activations:
        amax = max(abs(ranges[site.tensor].low[0]), abs(ranges[site.tensor].high[0]))
        qparams[site.tensor] = QuantParams((amax / 127,), (0,))
    for site in placement.weights:
        weight = np.moveaxis(weights[site.tensor], site.axis, 0)
        amax = np.abs(weight.reshape(len(weight), -1)).max(1).clip(1e-8) / 127
        qparams[site.tensor] = QuantParams(tuple(amax.tolist()), (0,) * len(amax), axis=site.axis)
    sites = (*placement.activations, *placement.weights)
    return insert_qdq(float_network, [edge for site in sites for edge in site.edges], qparams)


@pytest.mark.rtx
@pytest.mark.parametrize("float_type", ["fp32", "fp16", "bf16"])
def test_tensorrt_rtx_builds_the_strong_dialect_layer_by_layer_as_planned(quantized, ranges, float_type, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    settings = DialectSettings(dialect="strong", newest_opset=23, float_type=float_type, ranges=ranges)
    found = express(quantized, settings)
    onnx.save(found.model, tmp_path / "net.onnx")
    log = io.StringIO()

    asked = rtx_settings(RtxEngine(backend="trt_rtx"))
    compile_network(tmp_path / "net.onnx", tmp_path, asked, log.write, log.write)

    built = layer_precisions(parse_layers(log.getvalue()), weighted_nodes(found.model))
    assert built == found.precisions
    assert list(built.values()).count("int8") == 74


def test_the_weak_dialect_computes_the_numbers_of_its_source(quantized, image):
    found = express(quantized, DialectSettings(dialect="weak", newest_opset=17))

    assert list(found.precisions.values()).count("int8") == 74
    before, after = (open_model(each).run(None, {"images": image})[0] for each in (quantized, found.model))
    assert np.array_equal(before, after)


def test_the_implicit_dialect_has_every_planned_layer_in_int8_where_ranges_are_known(quantized, ranges, image):
    settings = DialectSettings(dialect="dla-implicit", newest_opset=17, ranges=ranges, gpu_fallback="list")

    found = express(quantized, settings)

    planned = {name: kind for name, kind in found.precisions.items() if name in weighted_nodes(found.model)}
    assert list(planned.values()).count("int8") == 74
    cached = dict(read_cache(found.files["calibration.cache"]).scales)
    origins = json.loads(found.files["precisions.json"])["tensors"]
    own = {name: scale for name, scale in cached.items() if origins[name]["from"] != "range"}
    expected, without, with_outputs_rounded = (
        open_model(each).run(None, {"images": image})[0].ravel()
        for each in (quantized, *(as_explicit(found.model, scales, found.precisions) for scales in (own, cached)))
    )
    # What differs is that convolutions' outputs are rounded before SiLU; what that costs is the network's matter.
    assert np.corrcoef(expected, without)[0, 1] > 0.999
    assert np.corrcoef(expected, with_outputs_rounded)[0, 1] > 0.8
