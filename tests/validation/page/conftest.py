"""Reports as full as a run makes them, for the tests that look at the page: real proportions, made-up figures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from avcompress.spec import Check
from validation.page import render_html
from validation.pictures import Picture
from validation.report import (
    Accuracy,
    Candidate,
    ChangeFacts,
    ClassChanges,
    ComparisonFacts,
    ContractLine,
    DriftFacts,
    DriftLayer,
    Histogram,
    Interval,
    LayerTime,
    MachineState,
    Misses,
    OperatingPoint,
    Percentiles,
    PixelChanges,
    Provenance,
    Range,
    Report,
    ScenarioFacts,
    SliceFacts,
    WorstImage,
)

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
CAMVID = (
    "sky", "building", "column pole", "road", "sidewalk", "tree",
    "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
SLICES = {
    "size": ("small", "medium", "large"),
    "distance": ("near", "middle", "far"),
    "brightness": ("dark", "medium", "bright"),
    "position": ("left", "center", "right", "top", "middle", "bottom"),
    "time": ("day", "night"),
}
CORRUPTIONS = ("fog", "rain", "night", "glare", "motion_blur", "noise", "jpeg", "dirt")


def interval(value: float, half: float) -> Interval:
    """A figure with an interval that is not quite symmetrical."""
    return Interval(value=value, low=value - half, high=value + 1.15 * half)


def part(name: str, values: dict[str, tuple[float, float, float]], sizes: tuple[int, int], **more: Any) -> SliceFacts:
    """A slice of metric -> (reference, drop, half of the drop's interval)."""
    rise = {"false_alarms", "ece"}
    return SliceFacts(
        name=name,
        images=sizes[0],
        objects=sizes[1],
        reference={key: interval(value, 0.012) for key, (value, _, _) in values.items()},
        network={
            key: interval(value + drop if key.partition("/")[0] in rise else value - drop, 0.012)
            for key, (value, drop, _) in values.items()
        },
        drop={key: interval(drop, half) for key, (_, drop, half) in values.items()},
        **more,
    )


def comparison(seed: int, planted: float = 0.0) -> ComparisonFacts:
    """A detector beside its reference; `planted` is lost by persons, at night and in fog."""
    rng = np.random.default_rng(seed)
    every = {
        "AP": (0.2851, 0.0066, 0.0031), "AP50": (0.4528, 0.0071, 0.0042), "AP75": (0.3010, 0.0069, 0.0045),
        "AP_small": (0.0921, 0.0049, 0.0062), "AP_medium": (0.2870, 0.0081, 0.0054),
        "AP_large": (0.4491, 0.0060, 0.0061),
        "AR": (0.3911, 0.0052, 0.0040), "precision": (0.7123, 0.0103, 0.0049), "recall": (0.4312, 0.0061, 0.0038),
        "F1": (0.5372, 0.0078, 0.0035), "false_alarms": (1.2871, 0.0911, 0.0420), "ece": (0.0512, 0.0012, 0.0031),
    }  # fmt: skip
    base = np.random.default_rng(7).uniform(0.1, 0.6, len(COCO))
    for index, name in enumerate(COCO):
        lost = rng.normal(0.006, 0.012) + (planted if name == "person" else 0)
        half = 0.004 if name in {"person", "car"} else rng.uniform(0.01, 0.09)
        every[f"AP/{name}"] = (float(base[index]), lost, half)
        every[f"recall/{name}"] = (float(base[index]) * 1.3, lost * 1.2, half)
        every[f"precision/{name}"] = (min(0.95, float(base[index]) * 1.5), lost * 0.7, half)
    here = {key: every[key] for key in ("AP", "recall", "precision")}
    slices = [part("all", every, (5000, 36335))]
    for kind, names in SLICES.items():
        for name in names:
            lost = planted if name == "night" else 0.0
            shifted = {
                k: (v * rng.uniform(0.5, 1.3), d + rng.normal(0, 0.003) + lost, h * 2) for k, (v, d, h) in here.items()
            }
            slices.append(
                part(f"{kind}:{name}", shifted, (int(rng.integers(300, 5000)), int(rng.integers(900, 20000))))
            )
    for corruption in CORRUPTIONS:
        for severity in (1, 3, 5):
            lost = 0.002 * severity + (planted * severity / 3 if corruption == "fog" else 0.0)
            shifted = {
                k: (v * (1 - 0.14 * severity * rng.uniform(0.6, 1.2)), d + lost * rng.uniform(0.4, 1.6), h)
                for k, (v, d, h) in here.items()
            }
            slices.append(part(f"{corruption}:{severity}", shifted, (5000, 36335), corruption=True))
    return ComparisonFacts(resamples=1000, confidence=0.95, slices=tuple(slices))


def scenario(name: str, runs: int, deadline_ms: float, **more: Any) -> ScenarioFacts:
    """Latencies with a tail of stalls."""
    rng = np.random.default_rng(runs)
    samples = 4.5 + rng.gamma(1.8, 0.14, runs)
    samples[rng.random(runs) > 0.996] += 3.4
    ordered = np.sort(samples)
    dropped = int(np.sum(samples > deadline_ms)) if name != "single_stream" else 0
    missed = int(np.sum(samples > deadline_ms)) + dropped
    total = runs + dropped

    def percentile(p: float) -> Interval:
        rank = min(runs - 1, int(np.ceil(p * runs)) - 1)
        return Interval(
            value=ordered[rank], low=ordered[max(0, rank - 9)], high=ordered[rank + 9] if rank + 9 < runs else None
        )

    arrivals = np.arange(runs) * (0.1 if name != "single_stream" else 0.0048)
    values: dict[str, Any] = {
        "engine": "openvino",
        "scenario": name,
        "warmup": 20,
        "percentiles": {f"p{share:g}": percentile(share / 100) for share in (50, 90, 99, 99.9)},
        "mean_ms": samples.mean(),
        "max_ms": samples.max(),
        "jitter_ms": samples.std(),
        "misses": (
            Misses(
                deadline_ms=deadline_ms,
                missed=missed,
                rate=Interval(value=missed / total, low=0.5 * missed / total, high=(1.6 * missed + 3) / total),
            ),
        ),
        "stages": {
            stage: Percentiles(mean_ms=x, p50_ms=x, p90_ms=1.1 * x, p99_ms=1.3 * x, p99_9_ms=2.1 * x, max_ms=2.4 * x)
            for stage, x in (("preprocess", 0.61), ("inference", 3.9), ("postprocess", 0.23))
        },
        "arrivals_s": tuple(arrivals.tolist()),
        "samples_ms": tuple(samples.tolist()),
        "dropped_s": tuple((arrivals[samples > deadline_ms][:dropped] + 0.05).tolist()),
        "machine": MachineState(
            governors=("schedutil",),
            clocks_mhz={"cpu": Range(low=1820, high=3400), "NVIDIA RTX A2000": Range(low=1200, high=1200)},
            temperatures_c={"x86_pkg_temp": Range(low=61, high=88)},
            load_average=Range(low=0.4, high=1.9),
        ),
        "peak_memory_mb": 412.0,
        "energy_j": {"package-0": 91.4},
    }  # fmt: skip
    return ScenarioFacts(**{**values, **more})


def layers() -> tuple[DriftFacts, tuple[LayerTime, ...]]:
    """Error and time of the layers of `make_report`, with activations between them."""
    rng = np.random.default_rng(5)
    names = [
        "backbone.stem.conv", *(f"backbone.dark{i // 6}.{i % 6}.conv" for i in range(24)),
        *(f"backbone.dw{i}" for i in range(6)), *(f"head.preds.{i}" for i in range(3)),
    ]  # fmt: skip
    sqnr = 34 - np.linspace(0, 16, len(names)) + rng.normal(0, 1.6, len(names))
    sqnr[13:16] -= (16.5, 9.0, 6.0)
    drift = DriftFacts(
        bound_db=15.0,
        first_beyond=next((name for name, db in zip(names, sqnr, strict=True) if db < 15), None),
        layers=tuple(
            DriftLayer(
                layer=name, tensor=f"{name}_out", sqnr_db=db, cosine=1 - 10 ** (-db / 10) / 2, max_error=3.1,
                amplitude=20.0,
            )
            for name, db in zip(names, sqnr, strict=True)
        ),
    )  # fmt: skip
    times = tuple(
        LayerTime(
            name=name, nodes=(name,), ms=float(rng.gamma(1.5, 0.08)), precision="fp32" if ".dw" in name else "int8"
        )
        for name in names
    )
    return drift, (*times, LayerTime(name="Reorder_12", ms=0.21))


def changes(seed: int) -> ChangeFacts:
    """Objects lost and gained by class."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(-0.5, 0.5, 51)
    counts = (4000 * np.exp(-0.5 * ((edges[:-1] + 0.03) / 0.07) ** 2)).astype(int)
    return ChangeFacts(
        classes=tuple(
            ClassChanges(
                name=name,
                objects=int(objects),
                lost=int(objects * 0.031),
                faded=int(objects * 0.022),
                gained=int(objects * 0.017),
                new_false_alarms=int(rng.integers(0, 30)),
                gone_false_alarms=int(rng.integers(0, 20)),
                mean_move=float(rng.normal(-0.02, 0.01)),
                worst_move=float(-rng.uniform(0.2, 0.7)),
            )
            for name, objects in zip(COCO[:24], sorted(rng.pareto(0.9, 24) * 60, reverse=True), strict=True)
        ),
        moves=Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist())),
        worst=(WorstImage(name="scene_0001.jpg", lost=4, gained=0, new_false_alarms=1),),
    )


def candidates() -> tuple[Candidate, ...]:
    """The results of a search."""
    rows = (
        ("float", 0.2851, 9.8, 3_600_000, True), ("int8", 0.2689, 4.1, 1_050_000, True),
        ("int8, head float", 0.2785, 4.6, 1_204_224, True), ("int8, pruned 30 %", 0.2601, 3.6, 820_000, True),
        ("int8 weights", 0.2781, 8.9, 1_100_000, False), ("int8, dw float", 0.2740, 4.9, 1_150_000, False),
    )  # fmt: skip
    return tuple(
        Candidate(
            name=name, accuracy=ap, latency_ms=ms, size_bytes=size, on_front=front, chosen=name == "int8, head float",
            passed=ap >= 0.27 and ms <= 8,
        )
        for name, ap, ms, size, front in rows
    )  # fmt: skip


PROVENANCE = Provenance(
    command="avcompress run recipes/yolox_nano.yaml --out out/yolox",
    seeds={"bootstrap": 0, "calibration": 7},
    networks={"float network": "4c" * 32, "compressed network": "e1" * 32},
    baseline="baselines/yolox-2027-02.zip " + "77" * 32,
)


def line(name: str, measured: float | None, sense: str, limit: float, **more: Any) -> ContractLine:
    """A line of a contract that follows from its figures."""
    room = None if measured is None else limit - measured if sense == "<=" else measured - limit
    passed = room is not None and room >= 0
    return ContractLine(
        **{"name": name, "measured": measured, "sense": sense, "limit": limit, "margin": room, "passed": passed, **more}
    )


@pytest.fixture
def full_report(make_report: Callable[..., Report]) -> Report:
    """A detector on two engines that keeps its contract, with everything that a report can hold."""
    return build_full(make_report, 0.0)


@pytest.fixture
def failed_report(make_report: Callable[..., Report]) -> Report:
    """The same detector with a loss planted in one class, at night and in fog, a slow tail, and one noisy layer."""
    return build_full(make_report, 0.05)


def build_full(make_report: Callable[..., Report], planted: float) -> Report:
    found = {"openvino": comparison(1, planted), "ort": comparison(2)}
    drift, times = layers()
    timed = [scenario("single_stream", 1000, 8.0)]
    timed += [scenario("constant_stream", 1200, 7.2, rate_hz=10.0, queue="newest", background_load=2)]
    timed += [scenario("multi_camera", 2000, 33.0, rate_hz=10.0, cameras=4, queue="every")]
    if planted:
        timed[1] = timed[1].model_copy(update={"throttled": ("clock of the CPU fell from 3400 to 1820 MHz at 88 °C",)})
        slow = tuple(x * (9 if i % 331 == 0 else 1) for i, x in enumerate(timed[0].samples_ms))
        late = Misses(deadline_ms=8.0, missed=7, rate=Interval(value=0.007, low=0.0033, high=0.0131))
        timed[0] = timed[0].model_copy(update={"samples_ms": slow, "max_ms": max(slow), "misses": (late,)})
    whole = found["openvino"].slices[0]
    fog = found["openvino"].find("fog:3")
    assert fog is not None
    about = {"engine": "openvino"}
    rows = [
        (found["openvino"].slices[0].drop["AP"], "AP drop @ openvino", 0.01, {"metric": "AP"}),
        (whole.drop["AP/person"], "AP/person drop @ openvino", 0.03, {"metric": "AP/person", "decide": "proven_kept"}),
        (fog.drop["AP"], "AP in fog:3 drop @ openvino", 0.04, {"metric": "AP", "slice": "fog:3"}),
    ]
    lines = [
        line("AP @ openvino", 0.2785, ">=", 0.27, low=0.2701, high=0.2871, metric="AP", **about),
        *(
            line(name, drop.value, "<=", limit, low=drop.low, high=drop.high, **{**about, **more})
            for drop, name, limit, more in rows
        ),
        line("p99 @ openvino", 5.59 if not planted else 8.41, "<=", 8.0, unit="ms", low=5.5, high=8.9, **about),
        line("miss rate of 7.2 ms, constant_stream @ openvino", 0.0121, "<=", 0.02, low=0.006, high=0.019, **about),
        line("SQNR of the worst layer", 12.1, ">=", 15.0 if planted else 10.0, unit="dB"),
        line("INT8 share of MACs", 0.9305, ">=", 0.8),
        line("layers as planned @ trt_rtx", 0.0, "==", 0.0, unit="mismatches"),
    ]  # fmt: skip
    first = drift if planted else drift.model_copy(update={"bound_db": 10.0, "first_beyond": None})
    return make_report(
        contract=tuple(lines),
        passed=all(row.passed for row in lines),
        accuracy=Accuracy(
            reference={name: found.value for name, found in whole.reference.items()} | {"AP/hair drier": None},
            engines={
                engine: {name: value.value for name, value in each.slices[0].network.items()}
                for engine, each in found.items()
            },
        ),
        comparisons=found,
        operating_point=OperatingPoint(threshold=0.3, restoring={"openvino": 0.331, "ort": None}),
        changes={"openvino": changes(4), "ort": changes(5)},
        scenarios=tuple(timed),
        drift=first,
        layer_times={"openvino": times},
        candidates=candidates(),
        provenance=PROVENANCE,
    )


@pytest.fixture
def segmentation_report(make_report: Callable[..., Report]) -> Report:
    """A segmenter on one engine."""
    rng = np.random.default_rng(3)
    values = {
        "mIoU": (0.5712, 0.0071, 0.0038),
        "pixel_accuracy": (0.9012, 0.0019, 0.0009),
        "F1": (0.6931, 0.0064, 0.0041),
        "boundary_f": (0.5110, 0.0112, 0.0048),
    }
    for name in CAMVID:
        values[f"IoU/{name}"] = (float(rng.uniform(0.2, 0.95)), float(rng.normal(0.007, 0.008)), 0.009)
        values[f"boundary_f/{name}"] = (float(rng.uniform(0.2, 0.8)), float(rng.normal(0.01, 0.008)), 0.009)
    here = {key: values[key] for key in ("mIoU", "F1")}
    slices = (
        part("all", values, (233, 40_262_400)),
        *(part(f"brightness:{name}", here, (80, 12_000_000)) for name in ("dark", "medium", "bright")),
        *(part(f"position:{name}", here, (233, 13_400_000)) for name in ("top", "middle", "bottom")),
    )
    whole = slices[0]
    lines = (
        line(
            "mIoU drop @ openvino",
            0.0071,
            "<=",
            0.01,
            low=0.0033,
            high=0.0115,
            decide="unless_proven_broken",
            engine="openvino",
            metric="mIoU",
        ),
        line("IoU/pedestrian @ openvino", 0.31, ">=", 0.3, engine="openvino", metric="IoU/pedestrian"),
    )
    return make_report(
        recipe="espnet-camvid-int8",
        task="segmentation",
        contract=lines,
        passed=True,
        notes=(),
        accuracy=Accuracy(
            reference={name: found.value for name, found in whole.reference.items()},
            engines={"openvino": {name: found.value for name, found in whole.network.items()}},
        ),
        comparisons={"openvino": ComparisonFacts(resamples=1000, confidence=0.95, slices=slices)},
        changes={
            "openvino": ChangeFacts(
                pixels=tuple(
                    PixelChanges(name=name, pixels=int(n), worse=int(n * w), better=int(n * 0.006))
                    for name, n, w in zip(CAMVID, rng.uniform(1e5, 9e6, 11), rng.uniform(0.002, 0.03, 11), strict=True)
                )
            )
        },
        provenance=PROVENANCE,
    )


@pytest.fixture
def minimal_report(make_report: Callable[..., Report]) -> Report:
    """Hardly anything: what remains when no engine runs here."""
    return make_report(
        checks=(Check("p99 @ openvino", float("nan"), "<=", 8.0, "ms"),),
        notes=("openvino: not installed",), accuracy=Accuracy(reference={}, engines={}), latency={}, layers=(),
        engines=(), stages=(), sources={}, inputs={}, versions={},
    )  # fmt: skip


_RENDERED: dict[str, str] = {}  # a page takes seconds to draw, and does not change


@pytest.fixture
def rendered(pictures: tuple[Picture, ...]) -> Callable[[Report], str]:
    """The page of a report, with the picture of its task where there is an accuracy to picture."""

    def render(report: Report) -> str:
        key = report.model_dump_json()
        shown = {"detection": pictures[:1], "segmentation": pictures[1:]}[report.task]
        if key not in _RENDERED:
            _RENDERED[key] = render_html(report, shown if report.accuracy.reference else ())
        return _RENDERED[key]

    return render
