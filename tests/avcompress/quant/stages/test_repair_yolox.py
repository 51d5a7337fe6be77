"""Learned rounding on a real network: the first blocks of YOLOX-nano, judged on images that learning has not seen."""

import numpy as np
import pytest

from avcompress.quant.learning.blocks import extract
from avcompress.quant.stages.adaround import adaround
from avcompress.quant.stages.ptq import quantize
from avcompress.quant.stages.reconstruct import reconstruct
from avcompress.recipe import AdaRound, KeepFloat, Preprocess, Ptq, Reconstruct
from avcompress.spec import Artifact
from calibration.decode import decode_image
from calibration.preprocess import preprocess
from engines.in_memory import open_model
from engines.onnx_graph import check, infer_shapes
from engines.onnx_load import load_onnx

SIDE = 208
LAST = "717"
"""The end of the first residual block: six convolutions deep, at a quarter of the resolution."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(data_root):
    """The top left quarters of sixteen images to learn from, and of four to judge by."""
    settings = Preprocess(size=(416, 416), anchor="top_left", channels="bgr")
    paths = sorted((data_root / "coco_mini" / "train2017").glob("*.jpg"))[:20]
    return [{"images": preprocess(decode_image(path), settings)[0][..., :SIDE, :SIDE]} for path in paths]


@pytest.fixture(scope="module")
def quantized(data_root, images):
    model = load_onnx(data_root / "models" / "yolox_nano.onnx", (416, 416))
    part = extract(model, "images", LAST)
    del part.graph.value_info[:]
    for value in (*part.graph.input, *part.graph.output):
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_value //= 416 // SIDE
    part = check(infer_shapes(part))
    return quantize(Artifact(part), Ptq(kind="ptq", keep_float=KeepFloat(head=False, depthwise=True)), images[:16])


def noise(artifact, images):
    """The mean squared error of the output, in parts of the output's own mean square."""
    sessions = [open_model(model) for model in (artifact.model, artifact.reference)]
    pairs = [[session.run(None, batch)[0] for session in sessions] for batch in images[16:]]
    return np.mean([np.square(q - f).mean() for q, f in pairs]) / np.mean([np.square(f).mean() for _, f in pairs])


@pytest.mark.slow
def test_adaround_lowers_the_error_on_other_images(quantized, images):
    repaired = adaround(quantized, AdaRound(kind="adaround", steps=300), images[:16])

    assert noise(repaired, images) < 0.9 * noise(quantized, images)


@pytest.mark.slow
def test_reconstruction_lowers_the_error_on_other_images(quantized, images):
    settings = Reconstruct(kind="reconstruct", steps=60, learning_rate=3e-2)

    repaired = reconstruct(quantized, settings, images[:16])

    assert noise(repaired, images) < 0.9 * noise(quantized, images)
    changed = [name for name, params in repaired.qparams.items() if params != quantized.qparams[name]]
    assert changed
