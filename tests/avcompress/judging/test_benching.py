"""`avcompress bench`: engines of every kind opened, measured, and held against a deadline."""

import io
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rich.console import Console

from avcompress.cli import app
from avcompress.cli.bench import show
from avcompress.contract import AccuracyTerm, Contract, LatencyTerm, Measure
from avcompress.files import sha256_file
from avcompress.judging.benching import BenchJob, bench_engine, check_job
from avcompress.recipe import OpenVinoEngine, OrtEngine, Preprocess, Segmentation
from avcompress.spec import DataError, EngineError, RecipeError
from engines.build import build_engine
from engines.bundle import Trust
from engines.manifest import Manifest, network_tensors, write_manifest
from validation.latency import Instruments
from validation.latency.facts import BenchFacts
from validation.machine import MachineState

FEW = Measure(warmup=1, runs=12)


def quiet():
    return Instruments(read=lambda: MachineState(0.0, governors=("performance",), cpu_mhz=(4000.0,)))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A segmenter of one convolution: images 1x3x40x64 -> classes 1x2x40x64."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, 40, 64))
        for name, channels in (("images", 3), ("classes", 2))
    ]
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(0, 1, (2, 3, 3, 3)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["images", "w"], ["classes"], name="c", pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_engine(network, engine, folder, **changes):
    built = build_engine(network, folder, engine)
    return write_manifest(changes.pop("manifest_in", folder), manifest_of(network, engine, built, **changes))


def manifest_of(network, engine, built, **changes):
    inputs, outputs = network_tensors(network)
    facts = {
        "name": "tiny",
        "engine": engine,
        "versions": {"avcompress": "0", **built.versions},
        "inputs": inputs,
        "outputs": outputs,
        "preprocess": Preprocess(size=(40, 64)),
        "task": Segmentation(kind="segmentation"),
        "classes": ("road", "car"),
        "contract": Contract(accuracy=(AccuracyTerm(metric="mIoU", min=0.7),)),
        "onnx_sha256": sha256_file(network),
        "recipe_sha256": "0" * 64,
    }
    return Manifest(**{**facts, **changes})


@pytest.fixture(scope="module")
def engine(network, tmp_path_factory):
    """The folder of its OpenVINO engine, in a run's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "engines" / "openvino"
    write_engine(network, OpenVinoEngine(backend="openvino", threads=1), folder)
    return folder


@pytest.fixture
def bundle(network, tmp_path):
    """An unsigned bundle of its ONNX Runtime engine."""
    folder = tmp_path / "tiny.bundle"
    folder.mkdir()
    shutil.copy(network, folder / "model.onnx")
    write_engine(network, OrtEngine(backend="ort", threads=1), folder / "engine", manifest_in=folder)
    return folder


# --- what is measured


def test_an_engine_of_a_run_is_timed_from_image_to_prediction(engine):
    result, facts = bench_engine(BenchJob(engine, measure=FEW), quiet())

    assert list(facts.scenario.stages) == ["preprocess", "inference", "postprocess"]
    assert (facts.network, facts.backend, facts.timed) == ("tiny", "openvino", "end to end")
    assert facts.data == "16 rendered scenes of 64x40"
    assert facts.size_bytes == sum((engine / name).stat().st_size for name in ("model.xml", "model.bin"))
    assert (facts.misses, facts.checks, facts.passed, facts.warnings) == (None, (), None, ())
    assert facts.scenario.samples_ms == result.samples_ms
    assert facts.scenario.latency.images == 12
    assert facts.notes == ("12 images are too few for some percentiles: p99 takes 100, p99.9 takes 1000 (--runs)",)
    total = [sum(parts) for parts in zip(*(stage.samples_ms for stage in result.stages.values()), strict=True)]
    assert total == pytest.approx(result.samples_ms)
    assert BenchFacts.model_validate_json(facts.model_dump_json()) == facts


def test_the_engine_alone_is_fed_what_preprocessing_made(engine):
    result, facts = bench_engine(BenchJob(engine, measure=FEW, engine_only=True), quiet())

    assert list(result.stages) == ["inference"]
    assert (facts.timed, facts.data) == ("engine only", "16 rendered scenes of 64x40, preprocessed before")


@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_an_onnx_file_is_built_and_fed_random_inputs(network, backend):
    result, facts = bench_engine(BenchJob(network, measure=FEW, backend=backend, threads=1), quiet())

    assert list(result.stages) == ["inference"]
    assert (facts.network, facts.backend, facts.data) == ("model.onnx", backend, "random inputs, 0-255")


def test_images_of_a_folder_are_taken_from_all_over_it(engine, tmp_path):
    for number in range(40):
        Image.new("RGB", (64, 40), (number, 0, 0)).save(tmp_path / f"{number:02}.png")

    _, facts = bench_engine(BenchJob(engine, measure=FEW, images=tmp_path), quiet())

    assert facts.data == f"16 images of {tmp_path}"


def test_engines_beside_each_other_are_run_in_turns(engine, network):
    result, facts = bench_engine(BenchJob(engine, measure=Measure(runs=40, warmup=5), beside=(engine, engine)))

    assert [each.engine for each in facts.in_turns] == [str(engine)] * 3
    assert all(each.p50_ms > 0 and each.noise_ms > 0 for each in facts.in_turns)
    assert len(result.samples_ms) == 40
    with pytest.raises(RecipeError, match="expected an engine's folder or an ONNX file, got nothing"):
        bench_engine(BenchJob(engine, beside=(engine / "none",)))


def test_an_engine_and_an_onnx_file_are_run_in_turns_whichever_is_named_first(engine, network):
    for first, second in ((engine, network), (network, engine)):
        job = BenchJob(first, measure=FEW, backend="openvino", threads=1, beside=(second,))
        check_job(job)
        assert [each.engine for each in bench_engine(job, quiet())[1].in_turns] == [str(first), str(second)]
    with pytest.raises(RecipeError, match="expected an ONNX file with them"):
        check_job(BenchJob(engine, backend="openvino", beside=(engine,)))


def test_a_bundle_is_opened_as_a_vehicle_would(bundle):
    job = BenchJob(bundle, measure=FEW)
    with pytest.raises(RecipeError, match="expected a public key to verify by, got none"):
        bench_engine(job, quiet())

    _, facts = bench_engine(replace(job, trust=Trust(allow_unsigned=True)), quiet())

    assert facts.backend == "ort"
    assert "numeric reference, not a measure of speed" in facts.notes[0]


def test_an_altered_engine_is_not_loaded(engine, tmp_path):
    folder = tmp_path / "engine"
    shutil.copytree(engine, folder)
    with (folder / "model.bin").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(EngineError, match="altered"):
        bench_engine(BenchJob(folder, measure=FEW), quiet())


def test_an_engine_of_another_version_is_built_anew_first(engine, network, tmp_path):
    folder = tmp_path / "engine"
    write_engine(network, OpenVinoEngine(backend="openvino"), folder, versions={"openvino": "2020.1"})
    with pytest.raises(EngineError, match=r"built with openvino 2020\.1, this machine has"):
        bench_engine(BenchJob(folder, measure=FEW), quiet())


def test_a_stream_that_the_engine_cannot_keep_up_with_drops_images_and_says_so(engine):
    job = BenchJob(
        engine,
        scenario="constant_stream",
        measure=Measure(warmup=0, runs=100, rate_hz=1e5),
        term=LatencyTerm(deadline_ms=1e-3, max_miss_rate=0.5),
    )

    result, facts = bench_engine(job, quiet())

    assert facts.scenario.dropped == len(result.dropped_s) > 0
    assert facts.scenario.latency.images + facts.scenario.dropped == facts.scenario.images == 100
    assert (facts.passed, facts.misses.images, facts.misses.rate) == (False, 100, 1.0)
    assert "images were dropped" in facts.warnings[0]
    assert "one comes every 0.01 ms: images are dropped" in facts.warnings[1]


def test_what_the_machine_says_becomes_warnings(engine):
    looks = iter([0, 3])

    def read():
        return MachineState(
            0.0, governors=("powersave",), throttle_counts={"core_throttle_count": next(looks)}, load_average=999.0
        )

    _, facts = bench_engine(BenchJob(engine, measure=FEW), Instruments(read=read))

    assert [line.split(":")[0] for line in facts.warnings[:2]] == ["throttled", "CPU governor powersave"]
    assert facts.warnings[2].startswith("load average 999 on ")
    assert len(facts.warnings) == 3


# --- what is refused before the work


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": Path("/nowhere")}, "expected an engine's folder or an ONNX file, got nothing"),
        ({"backend": "ort"}, "expected an ONNX file with them"),
        ({"threads": 2}, "expected an ONNX file with them"),
        ({"term": LatencyTerm(deadline_ms=5, percentile="p99.9")}, "at least 1000 to decide p99.9 (point), got 200"),
        ({"term": LatencyTerm(deadline_ms=5, decide="proven_kept")}, "at least 299 to decide p99 (proven_kept)"),
        ({"term": LatencyTerm(deadline_ms=5, max_miss_rate=0.001)}, "at least 1000 to decide a miss rate of 0.001"),
        ({"term": LatencyTerm(deadline_ms=5, max_miss_rate=0, decide="proven_kept")}, "no number of images is enough"),
    ],
)
def test_what_cannot_be_decided_or_does_not_fit_is_refused(engine, changes, message):
    with pytest.raises(RecipeError) as error:
        check_job(replace(BenchJob(engine), **changes))
    assert message in str(error.value)


def test_a_path_beside_the_engine_is_answered_with_the_right_one(engine, network, tmp_path):
    with pytest.raises(RecipeError, match=f"give {engine}"):
        check_job(BenchJob(engine.parents[1]))
    with pytest.raises(RecipeError, match="give a run's engines/BACKEND, or a bundle"):
        check_job(BenchJob(tmp_path))
    with pytest.raises(RecipeError, match=f"give {engine}"):
        check_job(BenchJob(engine / "manifest.json"))
    with pytest.raises(RecipeError, match="or --backend ort or openvino"):
        check_job(BenchJob(network))
    with pytest.raises(RecipeError, match="--images: expected an engine with a manifest"):
        check_job(BenchJob(network, backend="ort", images=tmp_path))


def test_a_folder_without_images_is_refused(engine, tmp_path):
    with pytest.raises(DataError, match="expected images"):
        bench_engine(BenchJob(engine, measure=FEW, images=tmp_path), quiet())


# --- the command


def shown(facts):
    console = Console(file=io.StringIO(), width=80, no_color=True)
    show(console, facts)
    return console.file.getvalue()


def test_people_read_the_figures_the_bounds_and_the_verdict(engine):
    job = BenchJob(
        engine,
        measure=Measure(warmup=1, runs=110),
        term=LatencyTerm(deadline_ms=1e4, max_miss_rate=0.02, percentile="p99"),
    )
    text = shown(bench_engine(job, quiet())[1])

    lines = text.splitlines()
    assert lines[0].startswith("tiny by openvino, end to end, on ")
    assert lines[1] == "single_stream: 110 images after 1 of warm-up; fed 16 rendered scenes of 64x40"
    assert lines[2].split() == ["ms", "mean", "p50", "p90", "p99", "p99.9", "max"]
    assert [line.split()[0] for line in lines[3:7]] == ["preprocess", "inference", "postprocess", "total"]
    assert lines[7].startswith("  95% at least  ")
    assert lines[8].split()[:3] == ["95%", "at", "most"]
    assert lines[8].split()[-2:] == ["-", "-"]  # 110 images give no upper bound of p99, still less of p99.9
    assert max(len(line) for line in lines[2:9]) < 80
    assert "…" not in text
    assert "later than 10000 ms: 0 of 110: 0 % (95% bounds 0 % and 2.69 %)" in text
    assert "governor performance, fastest core 4000 to 4000 MHz" in text
    assert "note: 110 images are too few for some percentiles: p99.9 takes 1000 (--runs)" in text
    assert ": kept\n" in text
    assert "miss rate 0 %, at most 2 % allowed: kept" in text


def test_a_percentile_of_dropped_images_has_no_figure_and_is_not_kept(engine):
    job = BenchJob(
        engine,
        scenario="multi_camera",
        measure=Measure(warmup=0, runs=100, rate_hz=1e5, cameras=2),
        term=LatencyTerm(deadline_ms=1e4, percentile="p99"),
    )
    text = shown(bench_engine(job, quiet())[1])

    assert "2 cameras at 100000 Hz, of those that wait the newest of each is taken" in text
    assert "images that were not dropped\n" in text
    assert "p99 has no figure, at most 10000.0 ms allowed: NOT kept (too many of 100 images were dropped" in text


def in_process(*arguments):
    """What the command returns, or raises: without a process of its own, which takes seconds to start."""
    command = typer.main.get_command(app)
    started = SimpleNamespace(install=lambda: None)
    return command.main(["bench", *map(str, arguments)], standalone_mode=False, obj=started)


def test_the_command_tells_by_its_exit_code_and_writes_the_facts(engine, tmp_path):
    options = ["--runs", "100", "--warmup", "2", "--json", str(tmp_path / "bench.json"), "--quiet", "--load", "1"]
    command = [sys.executable, "-m", "avcompress", "bench", str(engine), "--deadline-ms", "10000", *options]
    found = subprocess.run(command, text=True, capture_output=True, check=False)

    assert (found.returncode, found.stderr) == (0, "")
    facts = BenchFacts.model_validate_json((tmp_path / "bench.json").read_bytes())
    assert facts.passed
    assert facts.scenario.background_load == 1
    assert [check.name for check in facts.checks] == ["p99"]
    assert len(facts.scenario.samples_ms) == 100


def test_the_command_tells_what_engines_take_in_turns(engine, tmp_path, capsys):
    options = ["--runs", "20", "--beside", str(engine), "--json", str(tmp_path / "bench.json")]

    assert in_process(engine, *options) == 0
    assert capsys.readouterr().out.count("in turns: ") == 2
    facts = BenchFacts.model_validate_json((tmp_path / "bench.json").read_bytes())
    assert all(each.p50_ms > 0 for each in facts.in_turns)


def test_facts_are_not_written_over_an_engine_that_is_run_beside(engine, network, tmp_path):
    other = Path(shutil.copy(network, tmp_path / "other.onnx"))
    for beside, path in ((other, other), (engine, engine / "facts.json")):
        with pytest.raises(RecipeError, match="--json: expected a file"):
            in_process(network, "--backend", "ort", "--beside", str(beside), "--json", str(path))


def test_a_deadline_that_is_not_kept_is_exit_code_1(engine, capsys):
    assert in_process(engine, "--deadline-ms", "0.0001", "--quiet", "--warmup", "1") == 1
    assert in_process(engine, "--quiet", "--runs", "3", "--warmup", "0") == 0
    capsys.readouterr()


def test_without_a_number_of_runs_there_are_as_many_as_the_deadline_asks_for(engine, tmp_path, capsys):
    deadline = ["--deadline-ms", "10000", "--decide", "proven_kept"]
    in_process(engine, *deadline, "--quiet", "--json", tmp_path / "bench.json")
    assert BenchFacts.model_validate_json((tmp_path / "bench.json").read_bytes()).scenario.images == 299
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "5"], "--rate: expected --scenario constant_stream or multi_camera with it, got none"),
        (["--phases", "same"], "--phases: expected --scenario multi_camera with it, got none"),
        (["--max-miss-rate", "0.1"], "--max-miss-rate: expected --deadline-ms with it, got none"),
        (["--scenario", "multi_camera"], "--cameras: expected how many, got nothing"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(engine, options, message):
    with pytest.raises(RecipeError) as error:
        in_process(engine, *options)
    assert str(error.value).startswith(message)


def test_the_facts_do_not_go_into_the_engine_s_folder(engine):
    with pytest.raises(RecipeError, match="expected a file outside the engine's folder"):
        in_process(engine, "--json", engine / "bench.json")
