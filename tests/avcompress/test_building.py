"""`avcompress build`: folders that a device builds from, settings, checks; its exit codes in a child process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

from avcompress import building
from avcompress.build_script import build_script
from avcompress.building import BuildFile, BuildJob, outcome_facts, run_build
from avcompress.cli.build import _counts_line
from avcompress.contract import AccuracyTerm, Contract
from avcompress.files import sha256_file
from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import place
from avcompress.recipe import KeepFloat, Preprocess, Segmentation, TrtEngine
from avcompress.spec import EngineBuildError, MissingError, ModelError, QuantParams, RecipeError
from engines.layer_map import Counts, layers_json
from engines.manifest import Gpu, Manifest, network_tensors, read_manifest, write_manifest
from engines.onnx_graph import infer_shapes, name_nodes
from engines.planned import planned_layers, with_precisions
from engines.qdq import insert_qdq
from engines.tensorrt.optimization import parse_profile
from engines.tensorrt.settings import BuildSettings

COMMAND = "from avcompress.cli import main; main()"
FAKE = Path(__file__).parents[1] / "engines" / "tensorrt" / "fake"


def network(zero=0, quantized=(0,), size=8):
    """Three 1x1 convolutions in a row, some with Q/DQ; `size` may be a name."""
    values = {"s": np.float32(0.05), "z": np.int8(zero), "w": np.ones((16, 16, 1, 1), np.float32)}
    values |= {"wq": np.ones((16, 16, 1, 1), np.int8), "ws": np.full(16, 0.1, np.float32), "wz": np.zeros(16, np.int8)}
    nodes = []
    for i in range(3):
        source, weight = f"t{i}", "w"
        if i in quantized:
            nodes += [
                helper.make_node("QuantizeLinear", [source, "s", "z"], [f"q{i}"], f"quantize{i}"),
                helper.make_node("DequantizeLinear", [f"q{i}", "s", "z"], [f"d{i}"], f"dequantize{i}"),
                helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], [f"w{i}"], f"weight{i}", axis=0),
            ]
            source, weight = f"d{i}", f"w{i}"
        nodes.append(helper.make_node("Conv", [source, weight], [f"t{i + 1}"], f"conv{i}"))
    ends = [helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, [1, 16, size, size]) for i in (0, 3)]
    used = {name for node in nodes for name in node.input}
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items() if name in used]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def net(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def job(source, out=None, backend="ort", **more):
    return BuildJob(source=source, out=out, backend=backend, **more)


# --- the folder


def test_an_export_is_the_network_its_settings_and_a_script_and_the_same_each_time(net, tmp_path, out):
    options = {"workspace_mb": 512, "timing_cache": str(tmp_path / "timings")}

    outcome = run_build(job(net, out, "trt", options=options, export_only=True))
    run_build(job(net, tmp_path / "again", "trt", options=options, export_only=True))

    assert outcome.built is None
    assert sorted(content(out)) == ["build.json", "build.sh", "net.onnx"]
    assert content(out) == content(tmp_path / "again")
    assert onnx.load(out / "net.onnx") == onnx.load(net)
    file = BuildFile.model_validate_json((out / "build.json").read_bytes())
    # A timing cache is this machine's: a device has none, or its own.
    assert file.engine == BuildSettings(module="tensorrt", workspace_mb=512)
    assert os.access(out / "build.sh", os.X_OK)
    assert outcome_facts(outcome)["engine"] is None


def test_the_implicit_dialect_takes_its_cache_and_precisions_along(net, tmp_path, out):
    (tmp_path / "scales").write_bytes(b"TRT-8602-EntropyCalibration2\nt0: 3c010a14\n")
    (tmp_path / "precisions.json").write_text(json.dumps({"layers": {"conv1": {"precision": "fp16"}}}))
    options = {"dialect": "dla-implicit", "dla_core": 0}

    run_build(
        job(
            net, out, "trt", options=options, export_only=True,
            calibration=tmp_path / "scales", precisions=tmp_path / "precisions.json",
        )
    )  # fmt: skip

    assert (out / "calibration.cache").read_bytes() == (tmp_path / "scales").read_bytes()
    engine = BuildFile.model_validate_json((out / "build.json").read_bytes()).engine
    assert engine.flags == ("fp16", "int8", "obey")
    assert engine.precisions == {"conv1": "fp16"}
    assert engine.calibration_cache == "calibration.cache"


def test_a_folder_is_built_in_place_and_what_is_asked_on_the_device_comes_first(net, tmp_path, out, monkeypatch):
    run_build(job(net, out, "trt", options={"workspace_mb": 512}, export_only=True))
    asked = []
    monkeypatch.setattr(building, "require", lambda _: None)

    def build(network, folder, engine, track):
        asked.append((network, folder, engine))
        raise EngineBuildError("build", "net.onnx: expected no more, got this; stop")

    monkeypatch.setattr(building, "build_engine", build)
    before = content(out)
    with pytest.raises(EngineBuildError):
        run_build(BuildJob(out, options={"workspace_mb": 64, "timing_cache": str(tmp_path / "timings")}))

    ((network_file, folder, engine),) = asked
    assert (network_file, folder) == (out / "net.onnx", out / "engine")
    assert (engine.workspace_mb, engine.timing_cache) == (64, str(tmp_path / "timings"))
    assert content(out) == before


def test_a_build_folder_may_be_made_anew_and_nothing_else_is_replaced(net, out):
    run_build(job(net, out))
    run_build(job(net, out, "openvino"))
    assert json.loads((out / "build.json").read_text())["engine"]["backend"] == "openvino"

    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(RecipeError, match=r"expected a new folder or an earlier build's, got one with 'thesis.txt'"):
        run_build(job(net, out))
    assert (out / "thesis.txt").exists()


def test_a_model_s_own_folder_is_not_replaced(net):
    with pytest.raises(RecipeError, match=r"got one with 'net\.onnx'"):
        run_build(job(net, net.parent))
    assert net.exists()


def test_a_folder_with_an_engine_of_somebody_else_is_not_replaced(net, out):
    (out / "engine").mkdir(parents=True)
    with pytest.raises(RecipeError, match="got one with 'engine'"):
        run_build(job(net, out))


@pytest.mark.parametrize("failure", [EngineBuildError("build", "no; mend it"), KeyboardInterrupt(), MemoryError()])
def test_a_failed_build_leaves_what_was_there(net, out, monkeypatch, failure):
    run_build(job(net, out))
    before = content(out)

    def fail(*_):
        raise failure

    monkeypatch.setattr(building, "build_engine", fail)
    with pytest.raises(type(failure)):
        run_build(job(net, out))
    assert content(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.onnx", "out"]


# --- targets


def engine_of(folder):
    return BuildFile.model_validate_json((folder / "build.json").read_bytes()).engine


@pytest.mark.parametrize(
    ("target", "lint", "dialect", "flags"),
    [
        ("orin-agx@jetpack-6.2", "tensorrt-10", "strong", ()),
        ("drive-orin@drive-os-6.0.9", "tensorrt-8", "weak", ("int8",)),
        ("thor", "tensorrt-11", "strong", ()),
    ],
)
def test_a_machine_decides_dialect_flags_and_checks(net, out, target, lint, dialect, flags):
    run_build(BuildJob(net, out, target=target, export_only=True))

    file = BuildFile.model_validate_json((out / "build.json").read_bytes())
    assert file.target.startswith(target)
    assert (file.lint, file.engine.dialect, file.engine.flags) == (lint, dialect, flags)


def test_an_rtx_card_is_compiled_for_itself(net, out):
    run_build(BuildJob(net, out, target="rtx-4090", export_only=True))

    assert engine_of(out).compute_capabilities == ("sm89",)


def test_a_cpu_takes_the_network_as_it_is(net, out):
    run_build(BuildJob(net, out, target="cpu@onnxruntime", export_only=True))

    assert engine_of(out).backend == "ort"
    assert onnx.load(out / "net.onnx") == onnx.load(net)


def test_float_layers_keep_their_type_unless_another_is_asked_for(net, out):
    def types():
        return {tensor.data_type for tensor in onnx.load(out / "net.onnx").graph.initializer}

    run_build(BuildJob(net, out, target="orin-agx", export_only=True))
    assert TensorProto.FLOAT16 not in types()
    run_build(BuildJob(net, out, target="orin-agx", float_type="fp16", export_only=True))
    assert TensorProto.FLOAT16 in types()
    half = out.parent / "half.onnx"
    (out / "net.onnx").rename(half)
    run_build(BuildJob(half, out.parent / "weak", target="drive-orin@drive-os-6.0.9", export_only=True))
    weak = engine_of(out.parent / "weak")
    assert weak.flags[:2] == ("fp16", "int8")
    # Q/DQ say what is INT8; only what must not become FP16 is told.
    assert set(weak.precisions.values()) <= {"fp32"}


def test_a_dla_gets_a_network_without_qdq_its_cache_and_every_layer_s_precision(tmp_path, out):
    onnx.save(network(quantized=(0, 1, 2)), tmp_path / "net.onnx")
    (tmp_path / "ranges.json").write_text(json.dumps({f"t{i}": [-3.0, 3.0] for i in range(4)}))
    asked = BuildJob(
        tmp_path / "net.onnx", out, target="orin-agx@jetpack-6.0", options={"dla_core": 0},
        ranges=tmp_path / "ranges.json", export_only=True,
    )  # fmt: skip

    run_build(asked)
    run_build(BuildJob(out, out.parent / "copy", export_only=True))

    engine = engine_of(out)
    assert (engine.dialect, engine.flags, engine.dla_core) == ("dla-implicit", ("fp16", "int8", "obey"), 0)
    assert engine.precisions == dict.fromkeys(("conv0", "conv1", "conv2"), "int8")
    assert {node.op_type for node in onnx.load(out / "net.onnx").graph.node} == {"Conv"}
    assert (out / "calibration.cache").read_bytes().startswith(b"TRT-8600-EntropyCalibration2\n")
    assert sorted(content(out)) == [
        "build.json", "build.sh", "calibration.cache", "layer_output_types.txt", "layer_precisions.txt", "net.onnx",
        "precisions.json",
    ]  # fmt: skip
    assert content(out) == content(out.parent / "copy")


def test_what_a_dialect_cannot_say_names_the_file(tmp_path, out):
    onnx.save(network(quantized=(), size="s"), tmp_path / "net.onnx")

    with pytest.raises(EngineBuildError, match=r"^check: net\.onnx: .*DLA has no dynamic"):
        run_build(
            BuildJob(
                tmp_path / "net.onnx", out, target="orin-agx@jetpack-6.0", options={"dla_core": 0}, export_only=True
            )
        )


# --- what is refused


@pytest.mark.parametrize(
    ("target", "core", "words"),
    [
        ("orin-agx@jetpack-6.0", 2, r"a DLA core of Jetson AGX Orin 64GB \(0 to 1\), got 2"),
        ("orin-nx-8@jetpack-6.2", 1, r"\(0\), got 1; name one of them"),
    ],
)
def test_a_dla_core_that_the_machine_has_not_is_refused_before_the_export(net, out, target, core, words):
    with pytest.raises(RecipeError, match=words):
        run_build(BuildJob(net, out, target=target, options={"dla_core": core}, export_only=True))
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts | {"network": "../net.onnx"}, "network: expected a file beside it"),
        (lambda facts: facts | {"network": "missing.onnx"}, "missing.onnx: expected a readable file"),
        (lambda facts: facts | {"more": 1}, "build.json: more: Extra inputs are not permitted"),
        (
            lambda facts: facts | {"engine": facts["engine"] | {"optimization_level": 9}},
            r"build.json: engine.optimization_level: .* less than or equal to 5",
        ),
        (
            lambda facts: (
                facts | {"engine": facts["engine"] | {"calibration_cache": "/etc/passwd", "dialect": "dla-implicit"}}
            ),
            "calibration_cache: expected calibration.cache beside it",
        ),
        (lambda _: [], "build.json: the file: Input should be a valid dictionary"),
    ],
)
def test_a_folder_that_was_altered_is_refused_in_one_line(net, out, change, message):
    run_build(job(net, out, "trt", export_only=True))
    path = out / "build.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))

    with pytest.raises(RecipeError, match=message) as caught:
        run_build(BuildJob(out, out=out.parent / "other", export_only=True))
    assert "\n" not in str(caught.value)


def test_a_folder_whose_settings_are_no_json_is_refused(out):
    out.mkdir()
    (out / "build.json").write_text("{")

    with pytest.raises(RecipeError, match=r"build.json: expected JSON"):
        run_build(BuildJob(out))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"backend": None}, "--target: expected a machine that `avcompress targets` lists, or --backend"),
        ({"target": "orin-agxx"}, "did you mean orin-agx"),
        ({"target": "orin-agx", "backend": "ort"}, "--backend: expected trt for orin-agx"),
        ({"target": "thor", "options": {"dla_core": 0}}, "expected a DLA"),
        ({"backend": "trt", "calibration": Path("x")}, "expected it with --dialect dla-implicit"),
        ({"backend": "trt", "options": {"dialect": "weak"}, "precisions": Path("x")}, "got one without the other"),
        ({"backend": "ort", "options": {"workspace_mb": 1}}, "expected no options of TensorRT, got workspace_mb"),
        ({"backend": "trt", "options": {"compute_capabilities": ("sm86",)}}, "builds for this machine's GPU, got sm86"),
        ({"backend": "trt_rtx", "options": {"compute_capabilities": ()}}, "expected at least one for tensorrt_rtx"),
    ],
)
def test_options_that_do_not_fit_together_are_refused_before_the_work(net, out, asked, message):
    with pytest.raises(RecipeError, match=message):
        run_build(BuildJob(source=net, out=out, **asked))
    assert not out.exists()


def test_precisions_of_another_kind_are_refused(net, out, tmp_path):
    (tmp_path / "precisions.json").write_text('{"conv0": "int3"}')
    (tmp_path / "scales").write_bytes(b"")

    with pytest.raises(RecipeError, match=r"precisions.conv0: Input should be .* got 'int3'"):
        run_build(
            job(
                net, out, "trt", options={"dialect": "dla-implicit"},
                calibration=tmp_path / "scales", precisions=tmp_path / "precisions.json",
            )
        )  # fmt: skip


@pytest.mark.parametrize("content", ["[]", '{"t1": [1]}', '{"t1": [2, 1]}', '{"t1": "a"}', '{"t1": ["a", "b"]}'])
def test_ranges_of_another_kind_are_refused(net, out, tmp_path, content):
    (tmp_path / "ranges.json").write_text(content)

    with pytest.raises(RecipeError, match=r"ranges.json: expected an object of \[least, largest\] by tensor"):
        run_build(BuildJob(net, out, target="orin-agx", ranges=tmp_path / "ranges.json", export_only=True))


@pytest.mark.parametrize(
    ("content", "words"), [("{}", "got none"), ('{"other": [0, 1]}', "got those of another, as 'other'")]
)
def test_ranges_of_no_tensor_of_the_network_are_refused(net, out, tmp_path, content, words):
    (tmp_path / "ranges.json").write_text(content)

    with pytest.raises(RecipeError, match=rf"ranges.json: expected ranges of tensors of {net.name}, {words}"):
        run_build(BuildJob(net, out, target="orin-agx@jetpack-6.2", ranges=tmp_path / "ranges.json", export_only=True))
    assert not out.exists()


def test_what_would_be_silently_changed_is_refused_with_what_to_do_unless_it_is_wanted(tmp_path, out):
    onnx.save(network(3), tmp_path / "net.onnx")

    with pytest.raises(EngineBuildError) as caught:
        run_build(job(tmp_path / "net.onnx", out, "trt", export_only=True))

    assert caught.value.stage == "check"
    assert "net.onnx, quantize0: expected what tensorrt-10 builds as it is" in str(caught.value)
    assert "--as-is builds all the same" in str(caught.value)
    run_build(job(tmp_path / "net.onnx", out, "trt", export_only=True, as_is=True))
    assert json.loads((out / "build.json").read_text())["as_is"] is True


def test_dynamic_shapes_are_held_against_the_graph_before_the_export(tmp_path, out):
    onnx.save(network(size="s", quantized=()), tmp_path / "net.onnx")

    with pytest.raises(EngineBuildError, match="expected shapes for the dynamic inputs t0"):
        run_build(job(tmp_path / "net.onnx", out, "trt", export_only=True))
    options = {"profiles": (parse_profile("t0:1x16x8x8,t0:1x16x16x16,t0:1x16x32x32"),)}
    run_build(job(tmp_path / "net.onnx", out, "trt", export_only=True, options=options))
    assert "--minShapes=t0:1x16x8x8" in (out / "build.sh").read_text()


def test_what_is_no_network_is_refused(tmp_path, out):
    (tmp_path / "net.onnx").write_text("plain text")

    with pytest.raises(ModelError, match="expected an ONNX file"):
        run_build(job(tmp_path / "net.onnx", out))


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="here is a CUDA device")
def test_without_a_gpu_an_engine_for_it_is_exported_and_not_built(net, out):
    with pytest.raises(MissingError, match="--export-only"):
        run_build(job(net, out, "trt"))
    assert not out.exists()


# --- what is planned


def test_the_plan_follows_the_operands():
    assert [(layer.name, layer.precision) for layer in planned_layers(network(quantized=(0, 2)))] == [
        ("conv0", "int8"),
        ("conv1", "float"),
        ("conv2", "int8"),
    ]


def test_precisions_told_apart_from_the_graph_are_the_plan():
    plan = with_precisions(planned_layers(network(quantized=())), {"conv0": "int8", "conv1": "fp32"})

    assert [layer.precision for layer in plan] == ["int8", "fp32", "float"]


COUNTS = Counts({"conv": {"fp16": 3, "int8": 2}, "gemm": {"fp16": 4}}, 4, 512, 1, None, 0, 0)


def test_a_layer_that_runs_otherwise_is_a_mismatch_and_an_unknown_one_too(net, out, monkeypatch):
    def build(network, folder, engine, track):
        folder.mkdir()
        (folder / "model.engine").write_bytes(b"engine")
        (folder / "layers.json").write_text(layers_json((), {}, COUNTS))
        told = {"conv0": "fp16", "conv1": "fp32", "conv2": "unknown"}
        return building.Built(
            "trt", folder, ("layers.json",), 1.0, 6, told, False, {"tensorrt": "10.3"}, "built here", ("a note",)
        )

    monkeypatch.setattr(building, "require", lambda _: None)
    monkeypatch.setattr(building, "build_engine", build)

    outcome = run_build(job(net, out, "trt"))

    assert [each.name for each in outcome.mismatches] == ["conv0", "conv2"]
    assert outcome.counts == COUNTS
    facts = json.loads((out / "engine" / "built.json").read_text())
    assert facts == outcome_facts(outcome)
    assert facts["layers"][0] == {"name": "conv0", "op": "Conv", "planned": "int8", "got": "fp16", "macs": 16384}
    assert facts["engine"]["notes"] == ["a note"]
    assert facts["counts"]["conversions"] == 4
    assert _counts_line(COUNTS) == "layers that multiply: 7 fp16, 2 int8; only convert or copy: 4; only quantize: 1"


# --- the script for a device


CALIBRATED = BuildSettings(module="tensorrt", dialect="dla-implicit", calibration_cache="calibration.cache")


def run_script(folder, *, trtexec="", arguments=()):
    """Run build.sh where there is no avcompress, and a trtexec whose help is `trtexec`, if any."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("dirname", "mkdir", "sed", "sh"):
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(Path("/usr/bin") / name)
    if trtexec:
        script = f'#!/bin/sh\ncase "$1" in --help) echo "{trtexec}" ;; *) for each; do echo "$each"; done ;; esac\n'
        (tools / "trtexec").write_text(script)
        (tools / "trtexec").chmod(0o755)
    return subprocess.run(
        [str(folder / "build.sh"), *arguments], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def script(tmp_path):
    def write(settings, quantized=True, **how):
        (tmp_path / "build.sh").write_text(build_script("my net.onnx", settings, quantized))
        (tmp_path / "build.sh").chmod(0o755)
        return run_script(tmp_path, **how)

    return write


def test_the_script_lets_avcompress_build_where_it_is(tmp_path, script):
    script(BuildSettings(module="tensorrt"))
    tool = tmp_path / "tools" / "avcompress"
    tool.write_text('#!/bin/sh\necho "avcompress $*"\n')
    tool.chmod(0o755)

    assert run_script(tmp_path, arguments=("--timeout", "9")).stdout == "avcompress build . --timeout 9\n"


@pytest.mark.parametrize(
    ("help_text", "extra"),
    [
        ("--stronglyTyped --fp16 --skipInference", ["--stronglyTyped", "--workspace", "--skipInference"]),
        ("--fp16 --buildOnly", ["--fp16", "--int8", "--workspace", "--buildOnly"]),
        ("--skipInference", ["--workspace", "--skipInference"]),
    ],
    ids=["10", "8.5", "11"],
)
def test_without_avcompress_the_script_uses_trtexec_as_that_version_has_it(script, help_text, extra):
    done = script(BuildSettings(module="tensorrt", workspace_mb=64), trtexec=help_text)

    expected = ["--memPoolSize=workspace:64" if each == "--workspace" else each for each in extra]
    assert done.stdout.splitlines() == [
        "--onnx=my net.onnx",
        "--saveEngine=engine/model.engine",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=engine/inspector.json",
        *expected,
    ]


def test_the_script_hands_every_setting_to_trtexec(script, tmp_path):
    (tmp_path / "calibration.cache").write_text("TRT-8600-EntropyCalibration2\nimages: 3c010a14\n")
    settings = BuildSettings(
        module="tensorrt",
        dialect="dla-implicit",
        flags=("fp16", "int8", "obey"),
        precisions={"/a/Conv": "int8", "/b/Conv": "fp16"},
        calibration_cache="calibration.cache",
        profiles=(parse_profile("images:1x3x8x8"),),
        optimization_level=4,
        dla_core=1,
        dla_fallback="list",
    )

    banner = "&&&& RUNNING TensorRT.trtexec [TensorRT v8602] # trtexec --help\n--fp16"

    assert script(settings, trtexec=banner).stdout.splitlines()[4:] == [
        "--fp16",
        "--int8",
        "--precisionConstraints=obey",
        "--layerPrecisions=/a/Conv:int8,/b/Conv:fp16",
        "--calib=engine/calibration.cache",
        "--builderOptimizationLevel=4",
        "--useDLACore=1",
        "--allowGPUFallback",
        "--minShapes=images:1x3x8x8",
        "--optShapes=images:1x3x8x8",
        "--maxShapes=images:1x3x8x8",
    ]


@pytest.mark.parametrize(
    ("banner", "first"),
    [
        ("[TensorRT v8602] # trtexec --help", "TRT-8602-EntropyCalibration2"),
        ("[TensorRT v100300] [b26] # trtexec --help", "TRT-100300-EntropyCalibration2"),
    ],
)
def test_the_script_gives_trtexec_the_calibration_cache_under_its_own_version(script, tmp_path, banner, first):
    cache = tmp_path / "calibration.cache"
    cache.write_text("TRT-8600-EntropyCalibration2\nimages: 3c010a14\n")

    done = script(CALIBRATED, trtexec=f"&&&& RUNNING TensorRT.trtexec {banner}")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "engine" / "calibration.cache").read_text() == f"{first}\nimages: 3c010a14\n"
    assert cache.read_text().startswith("TRT-8600-")


def test_the_script_builds_from_no_calibration_cache_that_its_trtexec_might_ignore(script, tmp_path):
    (tmp_path / "calibration.cache").write_text("TRT-8600-EntropyCalibration2\n")

    done = script(CALIBRATED, trtexec="--fp16")

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("build.sh: expected a trtexec that tells its version, got none; ")


@pytest.mark.parametrize(
    "settings",
    [
        BuildSettings(module="tensorrt_rtx", compute_capabilities=("sm86",)),
        BuildSettings(module="tensorrt", profiles=(parse_profile("x:1"), parse_profile("x:2"))),
        BuildSettings(module="tensorrt", dialect="weak", flags=("obey",), precisions={"a,b": "fp32"}),
        BuildSettings(module="tensorrt"),
    ],
    ids=["rtx", "two profiles", "comma", "no trtexec"],
)
def test_a_device_that_has_neither_is_told_what_it_lacks(script, settings):
    done = script(settings, trtexec="" if settings == BuildSettings(module="tensorrt") else "--fp16")

    assert done.returncode == 3
    assert done.stderr.startswith("build.sh: expected avcompress")


# --- the command


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "build", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )


@pytest.mark.rtx
def test_two_builds_of_one_network_give_the_same_engine_and_every_layer_is_as_planned(tmp_path, out):
    pytest.importorskip("tensorrt_rtx")
    onnx.save(network(quantized=(0, 2)), tmp_path / "net.onnx")
    options = ("--backend", "trt_rtx", "--compute-capability", "sm86")

    done = run(tmp_path / "net.onnx", *options, "--out", out, "--json", tmp_path / "facts.json")
    again = run(tmp_path / "net.onnx", *options, "--out", tmp_path / "again", "--quiet")
    in_place = run(out, "--quiet")

    assert (done.returncode, done.stderr) == (0, "")
    assert (again.returncode, in_place.returncode) == (0, 0)
    engines = {sha256_file(path / "engine" / "model.engine") for path in (out, tmp_path / "again")}
    maps = {(path / "engine" / "layers.json").read_bytes() for path in (out, tmp_path / "again")}
    assert len(engines) == len(maps) == 1
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert [(layer["name"], layer["planned"], layer["got"]) for layer in facts["layers"]] == [
        ("conv0", "int8", "int8"),
        ("conv1", "float", "fp32"),
        ("conv2", "int8", "int8"),
    ]
    assert facts["mismatches"] == []
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["runs", "in", "layers", "MACs", "%"],
        ["int8", "2", "66.7"],
        ["fp32", "1", "33.3"],
    ]
    assert lines[-1].endswith(f", 0 mismatches: {out / 'engine'}")


@pytest.mark.rtx
def test_a_dynamic_network_builds_with_several_profiles(tmp_path, out):
    pytest.importorskip("tensorrt_rtx")
    onnx.save(network(quantized=(), size="s"), tmp_path / "net.onnx")
    shapes = ("--shapes", "t0:1x16x8x8,t0:1x16x16x16,t0:1x16x32x32", "--shapes", "t0:1x16x64x64")

    done = run(tmp_path / "net.onnx", "--backend", "trt_rtx", *shapes, "--out", out)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.rtx
def test_a_layer_that_does_not_run_as_planned_exits_with_1(tmp_path, out):
    pytest.importorskip("tensorrt_rtx")
    model = network()
    scale = next(each for each in model.graph.initializer if each.name == "s")
    scale.CopyFrom(numpy_helper.from_array(np.full(16, 0.05, np.float32), "s"))
    zero = next(each for each in model.graph.initializer if each.name == "z")
    zero.CopyFrom(numpy_helper.from_array(np.zeros(16, np.int8), "z"))  # per channel: silently float
    onnx.save(model, tmp_path / "net.onnx")

    refused = run(tmp_path / "net.onnx", "--backend", "trt_rtx", "--out", out)
    built = run(tmp_path / "net.onnx", "--backend", "trt_rtx", "--out", out, "--as-is")

    assert refused.returncode == 2
    assert "scale per channel" in refused.stderr
    assert built.returncode == 1
    assert "mismatch: conv0 (Conv): planned int8, but it runs in fp32" in built.stdout


def runs(pid):
    """Whether a process runs; one that ended, and that nobody has asked how, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.rtx
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_compiler_and_leaves_nothing(tmp_path, out, data_root, sent):
    pytest.importorskip("tensorrt_rtx")
    command = [sys.executable, "-c", COMMAND, "build", str(data_root / "models" / "yolox_nano.onnx")]
    command += ["--backend", "trt_rtx", "--out", str(out)]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while not (found := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)

    assert found
    assert process.returncode == 128 + sent
    assert err.startswith("interrupted: nothing was written; start again with: avcompress build ")
    # Hit right at its start, the child finds its parent gone, and ends by itself.
    while runs(found[0]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(found[0])
    assert list(tmp_path.iterdir()) == []


def test_help_has_an_example():
    assert "Example: avcompress build" in run("--help").stdout


# --- a vehicle


VEHICLE = """
import sys
ALLOWED = {"numpy", "onnx", "ml_dtypes", "google", "typer", "click", "rich", "shellingham", "pydantic", "pydantic_core",
           "annotated_types", "annotated_doc", "typing_inspection", "typing_extensions", "yaml", "markdown_it", "mdurl",
           "pygments", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt_rtx_libs",
           "avcompress", "engines", "sitecustomize", "usercustomize", "_distutils_hack"}

class Vehicle:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        own = top in sys.stdlib_module_names or top.startswith(("__editable__", "_sysconfigdata"))
        if top not in ALLOWED and not own:
            raise ModuleNotFoundError(f"a vehicle has no {top}", name=top)

sys.meta_path.insert(0, Vehicle())
"""


@pytest.fixture
def vehicle(tmp_path):
    """Variables of a Python that has the vehicle's packages only, in the child processes, too."""
    (tmp_path / "vehicle").mkdir()
    (tmp_path / "vehicle" / "sitecustomize.py").write_text(VEHICLE)
    path = os.pathsep.join([str(tmp_path / "vehicle"), str(Path(building.__file__).parents[1]), str(FAKE)])
    return {"PYTHONPATH": path}


@pytest.mark.rtx
def test_a_vehicle_builds_a_folder_with_the_runtime_and_a_few_packages(tmp_path, out, vehicle):
    pytest.importorskip("tensorrt_rtx")
    onnx.save(network(), tmp_path / "net.onnx")
    run_build(job(tmp_path / "net.onnx", out, "trt_rtx", options={"compute_capabilities": ("sm86",)}, export_only=True))

    blocked = subprocess.run(
        [sys.executable, "-c", "import torch"], env={**os.environ, **vehicle}, capture_output=True, check=False
    )
    done = run(out, **vehicle)

    assert b"a vehicle has no torch" in blocked.stderr
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "engine" / "model.engine").is_file()


def test_a_vehicle_builds_with_tensorrt_itself(tmp_path, out, vehicle):
    onnx.save(network(), tmp_path / "net.onnx")
    run_build(job(tmp_path / "net.onnx", out, "trt", export_only=True))
    patched = (
        "import engines.build; from engines.tensorrt.device import Device; "
        "engines.build.find_device = lambda: Device('Orin', '8.7', 'CUDA 12.6'); " + COMMAND
    )

    done = subprocess.run(
        [sys.executable, "-c", patched, "build", str(out)],
        env={**os.environ, **vehicle, "FAKE_TENSORRT": '{"version": "8.6.1"}'},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    # The fake's log holds no layers: what they run in is unknown, which never passes.
    assert done.returncode == 1
    assert "mismatch: conv0 (Conv): planned int8, and the engine does not say what it runs in" in done.stdout
    assert json.loads((out / "engine" / "model.engine").read_bytes())["flags"] == ["FP16", "INT8"]


@pytest.mark.parametrize(
    ("version", "target", "dialect", "unknown"),
    [
        ("8.6.12", "drive-orin@drive-os-6.0.9", "weak", ["conv0", "conv1", "conv2"]),
        ("10.3.0", "orin-agx@jetpack-6.2", "strong", ["conv0"]),  # float layers run as their types say
    ],
)
def test_a_vehicle_builds_a_bundle_s_engine(tmp_path, vehicle, version, target, dialect, unknown):
    folder = tmp_path / "b"
    folder.mkdir()
    onnx.save(network(), folder / "model.onnx")
    inputs, outputs = network_tensors(folder / "model.onnx")
    manifest = Manifest(
        name="tiny",
        engine=TrtEngine(backend="trt"),
        target=target,
        versions={},
        inputs=inputs,
        outputs=outputs,
        preprocess=Preprocess(size=(8, 8)),
        task=Segmentation(kind="segmentation"),
        classes=("road",),
        contract=Contract(accuracy=(AccuracyTerm(metric="mIoU", min=0.7),)),
        onnx_sha256=sha256_file(folder / "model.onnx"),
        recipe_sha256="0" * 64,
    )
    write_manifest(folder, manifest)
    patched = (
        "import engines.build, engines.machine; from engines.tensorrt.device import Device; "
        "engines.machine.find_device = engines.build.find_device = lambda: Device('Orin', '8.7', 'CUDA 12.6'); "
    )

    done = subprocess.run(
        [sys.executable, "-c", patched + COMMAND, "bundle", "rebuild", "b", "--allow-unsigned", "--out", "here"],
        env={**os.environ, **vehicle, "FAKE_TENSORRT": json.dumps({"version": version})},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    # The fake does not tell what its layers run in, which never passes.
    assert done.returncode == 1
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("mismatch: ")] == unknown
    new = read_manifest(tmp_path / "here")
    assert (new.dialect, new.versions["tensorrt"]) == (dialect, version)
    assert new.gpu == Gpu(name="Orin", compute_capability="8.7", driver="CUDA 12.6")


# --- a real network


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
def test_a_real_detector_is_built_twice_to_the_same_bytes_with_the_planned_share_in_int8(
    tmp_path, data_root, float_type
):
    pytest.importorskip("tensorrt_rtx")
    model = version_converter.convert_version(onnx.load(data_root / "models" / "yolox_nano.onnx"), 17)
    model = infer_shapes(name_nodes(model))
    placement = place(graph_view(model), KeepFloat())
    sites = [*placement.activations, *placement.weights]
    lengths = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    qparams = {
        s.tensor: QuantParams(
            (0.02,) * (n := lengths[s.tensor][s.axis] if s.axis is not None else 1), (0,) * n, axis=s.axis
        )
        for s in sites
    }
    onnx.save(insert_qdq(model, [edge for s in sites for edge in s.edges], qparams), tmp_path / "net.onnx")

    outcomes = [
        run_build(BuildJob(tmp_path / "net.onnx", tmp_path / name, target="rtx-4090", float_type=float_type))
        for name in ("a", "b")
    ]

    assert outcomes[0].mismatches == ()
    planned = {layer.name for layer in placement.layers if layer.precision == "int8"}
    told = outcomes[0].built.precisions
    assert told == {name: "int8" if name in planned else float_type for name in told}
    assert len({sha256_file(tmp_path / name / "engine" / "model.engine") for name in ("a", "b")}) == 1
