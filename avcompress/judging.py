"""How good a network is while it is trained: the contract's first metric on the validation images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avcompress.bench import Bench
from avcompress.recipe import Detection, Recipe
from engines.ort import open_ort
from validation.detection import evaluate_detection
from validation.predict import predict
from validation.segmentation import evaluate_segmentation

if TYPE_CHECKING:
    import onnx
    from torch import nn

LESS_IS_BETTER = ("false_alarms", "ece")


def judged_metric(recipe: Recipe) -> str:
    """The metric of the contract's first accuracy term on all images; without one, AP or mIoU."""
    terms = [term.metric for term in recipe.contract.accuracy if term.slice is None]
    return terms[0] if terms else "AP" if isinstance(recipe.task, Detection) else "mIoU"


def judge(bench: Bench, to_network: Callable[[nn.Module], onnx.ModelProto]) -> Callable[[nn.Module], float]:
    """What measures a module as the network that it becomes, by ONNX Runtime; the higher, the better."""
    name = judged_metric(bench.recipe)
    sign = -1.0 if name.partition("/")[0] in LESS_IS_BETTER else 1.0

    def measure(module: nn.Module) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(to_network(module).SerializeToString())
            with open_ort(path, optimize=True) as session:
                return sign * float(_metrics(bench, session)[name])

    return measure


def _metrics(bench: Bench, session: Any) -> Any:
    pairs: Any = predict(session, bench.validation, bench.recipe.preprocess, bench.recipe.task)
    if isinstance(bench.recipe.task, Detection):
        return evaluate_detection(pairs, bench.classes).metrics
    return evaluate_segmentation(pairs, bench.classes).metrics
