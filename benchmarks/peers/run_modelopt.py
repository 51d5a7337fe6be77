"""NVIDIA ModelOpt's INT8 quantization, in an environment of its own: FLOAT.onnx IMAGES METHOD OUT.onnx.

Its defaults, but for the layers that are not INT8: they stay in FP32, as everybody's here.
"""

import sys
import time

STARTED = time.monotonic()

from pathlib import Path  # noqa: E402 (the imports are timed)

from modelopt.onnx.quantization import quantize  # noqa: E402
from peer_images import CalibrationImages, ImageReader, note_imports  # noqa: E402


def main(network: Path, images: Path, method: str, out: Path) -> None:
    note_imports(out, STARTED)
    quantize(
        str(network),
        quantize_mode="int8",
        calibration_data_reader=ImageReader(CalibrationImages(images)),
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
