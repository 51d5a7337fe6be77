"""How good a network is while it is trained: a metric of the contract on the validation images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avcompress.recipe import Detection, Recipe
from avcompress.running.bench import Bench
from engines.ort import open_ort
from validation.detection import detection_metric_names, evaluate_detection
from validation.predict import predict
from validation.segmentation import evaluate_segmentation, segmentation_metric_names

if TYPE_CHECKING:
    import onnx
    from torch import nn


def judged_metric(recipe: Recipe, classes: Sequence[str]) -> str:
    """The metric of the contract's first term on all images that is an AP or IoU; without one, AP or mIoU itself."""
    detects = isinstance(recipe.task, Detection)
    known = (detection_metric_names if detects else segmentation_metric_names)(classes)
    terms = [term.metric for term in recipe.contract.accuracy if term.slice is None and term.metric in known]
    return terms[0] if terms else "AP" if detects else "mIoU"


def judge(bench: Bench, to_network: Callable[[nn.Module], onnx.ModelProto]) -> Callable[[nn.Module], float]:
    """What measures a module as the network that it becomes, by ONNX Runtime; the higher, the better."""
    name = judged_metric(bench.recipe, bench.classes)

    def measure(module: nn.Module) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(to_network(module).SerializeToString())
            with open_ort(path, optimize=True) as session:
                return float(_metrics(bench, session)[name])

    return measure


def _metrics(bench: Bench, session: Any) -> Any:
    pairs: Any = predict(session, bench.validation, bench.recipe.preprocess, bench.recipe.task)
    if isinstance(bench.recipe.task, Detection):
        return evaluate_detection(pairs, bench.classes).metrics
    return evaluate_segmentation(pairs, bench.classes).metrics
