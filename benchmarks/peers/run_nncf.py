"""NNCF's post-training quantization, in an environment of its own: FLOAT.onnx IMAGES PRESET OUT.onnx.

Its defaults: performance is symmetric, mixed has asymmetric activations; biases are corrected.
"""

import sys
import time

STARTED = time.monotonic()

from pathlib import Path  # noqa: E402 (the imports are timed)

import nncf  # noqa: E402
import onnx  # noqa: E402
from peer_images import CalibrationImages, note_imports  # noqa: E402

PRESETS = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}


def main(network: Path, images: Path, preset: str, out: Path) -> None:
    note_imports(out, STARTED)
    calibration = CalibrationImages(images)
    quantized = nncf.quantize(
        onnx.load(str(network)),
        nncf.Dataset(calibration),
        preset=PRESETS[preset],
        subset_size=len(calibration),
    )
    onnx.save(quantized, str(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
