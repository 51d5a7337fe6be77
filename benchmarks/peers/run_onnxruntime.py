"""ONNX Runtime's quantize_static, in an environment of its own: FLOAT.onnx IMAGES METHOD OUT.onnx.

Symmetric int8 per channel, biases left float: TensorRT takes no other biases.
"""

import sys
import time

STARTED = time.monotonic()

from pathlib import Path  # noqa: E402 (the imports are timed)

from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static  # noqa: E402
from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: E402
from peer_images import CalibrationImages, ImageReader, note_imports  # noqa: E402

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


def main(network: Path, images: Path, method: str, out: Path) -> None:
    note_imports(out, STARTED)
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(network), str(prepared))
    quantize_static(
        str(prepared),
        str(out),
        ImageReader(CalibrationImages(images)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[method],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    prepared.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
