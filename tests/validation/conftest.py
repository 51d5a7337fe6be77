"""A made-up report and pictures, shared by the tests that render them."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest

from avcompress.contract import LatencyTerm
from avcompress.spec import Check, LayerPlan, Verdict
from calibration.sample import Sample
from engines.postprocess import Detections
from validation.changes import FalseAlarm, ObjectChange
from validation.latency import Latency
from validation.pictures import Names, Picture, Seen, Story, picture_boxes, picture_masks
from validation.report import (
    Accuracy,
    EngineFacts,
    LayerCounts,
    Machine,
    Report,
    SourceFacts,
    StageFacts,
)
from validation.report.facts import contract_lines, latency_facts, layer_facts

CLASSES = ("car", "truck", "bus", "person", "bicycle", "motorcycle", "traffic light", "stop sign", "dog", "bench")
NAN = float("nan")


def _metrics(shift: float) -> dict[str, float]:
    rng = np.random.default_rng(7)
    by_class = rng.uniform(0.1, 0.6, len(CLASSES)) - shift * rng.uniform(-0.4, 2.4, len(CLASSES))
    by_class[-1] = NAN
    overall = {"AP": 0.2851, "AP50": 0.4528, "AP75": 0.301, "AP_small": 0.092, "AP_medium": 0.287, "AP_large": 0.449}
    return {
        **{name: value - shift for name, value in overall.items()},
        **{f"AP/{name}": float(value) for name, value in zip(CLASSES, by_class, strict=True)},
        **{f"AP50/{name}": float(value) * 1.5 for name, value in zip(CLASSES, by_class, strict=True)},
    }


def _layers() -> tuple[LayerPlan, ...]:
    rng = np.random.default_rng(1)
    stem = LayerPlan("backbone.stem.conv", "Conv", "int8", "weighted layer", 18_690_048)
    body = [
        LayerPlan(f"backbone.dark{i // 6}.{i % 6}.conv", "Conv", "int8", "weighted layer", int(macs))
        for i, macs in enumerate(rng.integers(1_000_000, 20_000_000, 24))
    ]
    depthwise = [LayerPlan(f"backbone.dw{i}", "Conv", "float", "depthwise", 700_000 * (i + 1)) for i in range(6)]
    head = [LayerPlan(f"head.preds.{i}", "Conv", "float", "head: feeds an output", 2_100_000) for i in range(3)]
    return (stem, *body, *depthwise, *head)


def _samples(count: int) -> Latency:
    rng = np.random.default_rng(3)
    return Latency(tuple((4.55 + rng.gamma(1.6, 0.09, count) + (rng.random(count) > 0.985) * 1.4).tolist()))


@pytest.fixture
def make_report() -> Callable[..., Report]:
    """Build a report of a detector on two engines; keyword arguments replace fields."""

    def build(checks: tuple[Check, ...] | None = None, **changes: Any) -> Report:
        latency = _samples(1000)
        lines = (
            Check("AP @ openvino", 0.2785, ">=", 0.27),
            Check("AP drop @ openvino", 0.0066, "<=", 0.01),
            Check("AP @ ort", 0.2780, ">=", 0.27),
            Check("p99 @ openvino", latency.p99, "<=", 8.0, "ms"),
            Check("INT8 share of MACs", 0.9305, ">=", 0.8),
            Check("layers as planned @ trt_rtx", 0.0, "==", 0.0, "mismatches"),
        )
        verdict = Verdict(lines if checks is None else checks)
        layers = _layers()
        values: dict[str, Any] = {
            "recipe": "yolox-nano-int8",
            "task": "detection",
            "created": datetime(2027, 3, 4, 15, 9, tzinfo=timezone.utc),
            "passed": verdict.passed,
            "contract": contract_lines(verdict),
            "notes": ("kitti_mini: 2 images were skipped because they could not be read: 000007.png, 000019.png",),
            "accuracy": Accuracy(
                reference=_metrics(0.0), engines={"openvino": _metrics(0.0066), "ort": _metrics(0.0071)}
            ),
            "latency": {
                "openvino": latency_facts(
                    {name: _samples(200) for name in ("preprocess", "inference", "postprocess")} | {"total": latency},
                    20,
                    [LatencyTerm(percentile="p99", deadline_ms=8.0)],
                ),
                "ort": latency_facts({"total": _samples(50)}, 20, []),
            },
            "layers": layer_facts(layers, {"trt_rtx": {layer.name: layer.precision for layer in layers}}),
            "engines": (
                EngineFacts(
                    name="openvino",
                    backend="openvino",
                    file="openvino.xml",
                    size_bytes=1_204_224,
                    seconds=1.82,
                    runs_here=True,
                    note="2 threads, float layers in f32",
                ),
                EngineFacts(
                    name="ort",
                    backend="ort",
                    file="model.onnx",
                    size_bytes=1_310_720,
                    seconds=0.1,
                    runs_here=True,
                    note="numeric reference",
                ),
                EngineFacts(
                    name="trt_rtx",
                    backend="trt_rtx",
                    file="trt_rtx.engine",
                    size_bytes=2_909_000,
                    seconds=95.4,
                    runs_here=False,
                    note="built for sm86 and sm89; runs on an RTX GPU",
                    layer_counts=LayerCounts(
                        products={"correlation": {"fp32": 8, "int8": 25}, "gemm": {"int8": 1}},
                        conversions=5,
                        conversion_bytes=2_586_376,
                        loose_qdq=1,
                        loose_qdq_bytes=None,
                        horizontal=2,
                        nameless=0,
                    ),
                ),
            ),
            "stages": (StageFacts(name="ptq", seconds=21.7, log=("128 images observed", "72 of 81 layers in INT8")),),
            "sources": {
                "calibration": SourceFacts(format="coco", images=128, fingerprint="9f" * 32),
                "validation": SourceFacts(format="coco", images=158, skipped=("a.png",), fingerprint="1c" * 32),
            },
            "inputs": {"model": "models/yolox_nano.onnx", "data.validation.images": "coco_mini/val2017"},
            "machine": Machine(cpu="Example CPU 3000", cores=8, os="Linux 6.1", python="3.11.7"),
            "versions": {"avcompress": "0.1.0", "onnxruntime": "1.31.1"},
        }
        return Report(**{**values, **changes})

    return build


def detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    """Detections from plain lists."""
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


@pytest.fixture
def pictures() -> tuple[Picture, ...]:
    """One picture with boxes, one with masks."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(0, 255, (12, 16, 3), np.uint8), 30, axis=0), 30, axis=1)
    left = detections([[20, 30, 200, 160], [300, 100, 420, 330]], [0.91, 0.45], [0, 3])
    right = detections([[22, 31, 198, 158]], [0.88], [0])
    mask = (np.indices((360, 480)).sum(axis=0) // 90).astype(np.uint8)
    sample = Sample("scene_0001.jpg", image, mask=mask)
    story = Story(
        lost=(ObjectChange(0, 3, (300, 100, 420, 330), 0.45, NAN),),
        new=(FalseAlarm(0, 2, (60, 200, 180, 300), 0.4, NAN),),
    )
    return (
        picture_boxes(sample, Seen("float", left), Seen("openvino", right), story, CLASSES),
        picture_masks(sample, mask, np.roll(mask, 9), Names("float", "openvino", CLASSES)),
    )
