"""Judges one network, quantized by whomever: RECIPE DATA_ROOT FOLDER NETWORK OUT.json.

What TensorRT-RTX makes of it, and its accuracy: by ONNX Runtime with graph optimizations off, and with them on, where
some Q/DQ pairs are fused otherwise.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from avcompress.files import write_atomically
from avcompress.recipe import Detection, Recipe, RtxEngine
from avcompress.recipe_load import load_recipe
from avcompress.spec import EngineBuildError, EngineError, MissingError
from calibration.source import open_source
from engines.build import build_engine
from engines.layer_map import layer_precisions, parse_layers
from engines.network import read_network, weighted_nodes
from engines.onnx_graph import is_weighted, name_nodes
from engines.ort import open_ort
from engines.tensorrt.build import rtx_settings
from engines.tensorrt.child import run_child
from engines.tensorrt.refusals import refused
from engines.tensorrt.worker import ENGINE, LOG
from validation.detection import evaluate_detection
from validation.predict import predict
from validation.segmentation import evaluate_segmentation

SILENT = "takes for int8"  # what TensorRT-RTX computes otherwise, without an error
PASSING = frozenset({"Concat", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Split", "Transpose"})


def main(recipe_path: Path, data_root: Path, folder: Path, network: Path, out: Path) -> None:
    recipe = load_recipe(recipe_path)
    material = json.loads((folder / "material.json").read_text())
    found = {"accuracy": {}, "accuracy_optimized": {}} | accuracies(recipe, data_root, network, material)
    model = onnx.load(str(network))
    found |= share(set(int8_layers(model)), material["layers"])
    found |= compiled(model, recipe, material["layers"])
    write_atomically(out, json.dumps(found, indent=1))


def accuracies(recipe: Recipe, data_root: Path, network: Path, material: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics with graph optimizations off and on, or why there are none."""
    classes = tuple(material["classes"])
    try:
        off, on = (accuracy(recipe, data_root, classes, network, optimize) for optimize in (False, True))
    except EngineError as error:
        return {"accuracy_error": str(error)}
    names = material["metrics"]
    return {"accuracy": {name: off[name] for name in names}, "accuracy_optimized": {name: on[name] for name in names}}


def accuracy(
    recipe: Recipe, data_root: Path, classes: tuple[str, ...], network: Path, optimize: bool
) -> Mapping[str, float]:
    """The metrics over the recipe's validation images."""
    samples = open_source(recipe.data.validation, data_root, classes)
    with open_ort(network, optimize=optimize, threads=2) as session:
        pairs: Iterable[Any] = predict(session, samples, recipe.preprocess, recipe.task)
        if isinstance(recipe.task, Detection):
            return evaluate_detection(pairs, classes).metrics
        return evaluate_segmentation(pairs, classes).metrics


def int8_layers(model: onnx.ModelProto) -> Iterator[str]:
    """The weighted nodes that read both operands from a DequantizeLinear, be it through a Concat or the like."""
    dequantized: set[str] = set()
    for node in model.graph.node:
        inputs = node.input if node.op_type == "Concat" else node.input[:1]
        if node.op_type == "DequantizeLinear" or (node.op_type in PASSING and dequantized.issuperset(inputs)):
            dequantized.update(node.output)
        elif is_weighted(node) and dequantized.issuperset(node.input[:2]):
            yield node.name


def share(int8: set[str], layers: Mapping[str, int]) -> dict[str, Any]:
    """How many of the float network's layers are INT8, and their share of its multiply-accumulates."""
    total = sum(layers.values())
    return {
        "int8_layers": len(int8 & layers.keys()),
        "int8_macs": sum(layers[name] for name in int8 & layers.keys()) / total if total else None,
        "renamed_layers": len(int8 - layers.keys()),
    }


def compiled(model: onnx.ModelProto, recipe: Recipe, layers: Mapping[str, int]) -> dict[str, Any]:
    """Build the network ahead of time; what the builder refuses, and which layers its log shows in INT8."""
    stated = (engine for engine in recipe.target.engines if isinstance(engine, RtxEngine))
    engine = next(stated, RtxEngine(backend="trt_rtx"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(name_nodes(model), str(path))
        try:
            built = build_engine(path, Path(folder) / "engine", engine)
            return {"rtx": "accepted"} | in_its_log(built.precisions or {}, layers)
        except MissingError as error:
            return {"rtx": "not installed", "rtx_reason": str(error)}
        except EngineBuildError as error:
            verdict = {"rtx": "refused", "rtx_reason": str(error)}
            return verdict | (as_it_is(path, engine, layers) if SILENT in str(error) else {})


def as_it_is(path: Path, engine: RtxEngine, layers: Mapping[str, int]) -> dict[str, Any]:
    """What TensorRT-RTX does with a network that `build_engine` stops: it may take it, and compute something else."""
    folder = path.parent / "as_it_is"
    folder.mkdir()
    try:
        result = run_child(path, folder, rtx_settings(engine))
    except EngineBuildError as error:
        return {"rtx_reason": str(error)}
    log = (folder / LOG).read_text(encoding="utf-8")
    if not (folder / ENGINE).is_file():
        return {"rtx_reason": str(refused(path.name, "tensorrt_rtx", result["stage"], result["errors"], log))}
    precisions = layer_precisions(parse_layers(log), weighted_nodes(read_network(path)))
    return {"rtx": "not as measured"} | in_its_log(precisions, layers)


def in_its_log(precisions: Mapping[str, str], layers: Mapping[str, int]) -> dict[str, Any]:
    """How many layers the builder's log shows in INT8, and their share of the multiply-accumulates."""
    found = share({name for name, precision in precisions.items() if precision == "int8"}, layers)
    return {"rtx_int8_layers": found["int8_layers"], "rtx_int8_macs": found["int8_macs"]}


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:6]))
