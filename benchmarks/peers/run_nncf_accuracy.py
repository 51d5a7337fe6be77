"""NNCF's quantization with accuracy control: FLOAT.onnx CALIBRATION SELECTION MAX_DROP SUBSET SPARED NETWORKS OUT.xml.

CALIBRATION and SELECTION are folders of images as the network takes them, one .npy each. What the metric is, our side
knows: for every network that NNCF asks about, its answers on SELECTION are written to a file, whose name goes to
standard output; the metric comes back on standard input. MAX_DROP is a share of the float network's metric, SUBSET the
images that rank layers, SPARED what stays float from the start, with commas between: kinds of OpenVINO's operators, and
names of some, which have a / in them; or -. After so many NETWORKS it gives up. Weights use half of INT8's range, which
CPUs without VNNI need.
"""

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
from nncf.quantization.advanced_parameters import (
    AdvancedAccuracyRestorerParameters,
    AdvancedQuantizationParameters,
    OverflowFix,
)

ASK = "judge "


def main(arguments: list[str]) -> None:
    network, calibration, selection, max_drop, subset, spared, networks, out = arguments
    answers, kept = Path(out).with_suffix(".npy"), [part for part in spared.split(",") if part != "-"]

    def load(path: Path) -> np.ndarray:
        return np.load(path).astype(np.float32)

    def validate(compiled: ov.CompiledModel, paths: list[Path]) -> tuple[float, list[list[np.ndarray]]]:
        request = compiled.create_infer_request()
        found = np.concatenate([request.infer([load(path)])[0] for path in paths])
        np.save(answers, found)
        print(f"{ASK}{answers}", flush=True)
        # By how far its answers move on the images that rank layers NNCF knows what each of them costs.
        return float(sys.stdin.readline()), [[answer] for answer in found]

    images, judged = (sorted(Path(folder).glob("*.npy")) for folder in (calibration, selection))
    quantized = nncf.quantize_with_accuracy_control(
        # Not read_model: it leaves SiLU as sigmoid and product, and NNCF quantizes what both of them take.
        ov.convert_model(network),
        calibration_dataset=nncf.Dataset(images, load),
        validation_dataset=nncf.Dataset(judged, load),
        validation_fn=validate,
        max_drop=float(max_drop),
        drop_type=nncf.DropType.RELATIVE,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(
            types=[part for part in kept if "/" not in part], names=[part for part in kept if "/" in part]
        ),
        subset_size=len(images),
        advanced_quantization_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
            max_num_iterations=int(networks), ranking_subset_size=int(subset)
        ),
    )
    ov.save_model(quantized, out, compress_to_fp16=False)


if __name__ == "__main__":
    main(sys.argv[1:])
