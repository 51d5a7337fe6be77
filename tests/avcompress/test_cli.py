"""The command line as a user's CI sees it: a tiny network, real files, a child process, its exit code and its lines."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image

import avcompress
from avcompress.cli.app import Exit
from avcompress.cli.process import _interrupted

CLASSES = ("low", "middle", "high")


def launch(folder: Path, recipe: dict[str, Any], *options: str, **variables: str) -> subprocess.Popen[str]:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    command = [sys.executable, "-m", "avcompress", "run", "recipe.yaml", "--out", "out", *options]
    environment = os.environ | {"COLUMNS": "100"} | variables
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(folder: Path, recipe: dict[str, Any], *options: str, **variables: str) -> tuple[int, str, str]:
    process = launch(folder, recipe, *options, **variables)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def assert_refused(result: tuple[int, str, str], *parts: str, code: int = 2) -> None:
    status, _, err = result
    assert status == code, err
    assert len(err.splitlines()) == 1, err
    for part in ("error: ", *parts):
        assert part in err


def test_a_kept_contract_exits_with_0_and_leaves_network_engine_and_report(tmp_path: Path, job: dict[str, Any]) -> None:
    status, out, err = run(tmp_path, job, "--json", "facts.json")

    assert (status, err) == (0, ""), err
    assert "tiny: contract met" in out
    assert "\x1b" not in out  # plain where nobody sits at a terminal
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {
        "engines", "model.onnx", "recipe.yaml", "report.html", "report.json", "state",
    }  # fmt: skip
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    report = json.loads((folder / "report.json").read_text())
    assert report["schema_version"] == 2
    assert json.loads((tmp_path / "facts.json").read_text()) == report


def test_a_broken_contract_exits_with_1_and_names_the_failing_check(tmp_path: Path, job: dict[str, Any]) -> None:
    job["contract"]["accuracy"][0] = {"metric": "mIoU", "min": 1.0}
    status, out, _ = run(tmp_path, job)

    assert status == 1
    assert "failed: mIoU @ ort: expected >= 1" in out
    assert (tmp_path / "out" / "report.html").exists()


def test_quiet_prints_the_verdict_only(tmp_path: Path, job: dict[str, Any]) -> None:
    _, out, _ = run(tmp_path, job, "--quiet")
    assert out.startswith("tiny: contract met\n")


def test_a_resumed_run_keeps_every_finished_step_and_repeats_the_same_report(
    tmp_path: Path, job: dict[str, Any]
) -> None:
    run(tmp_path, job)
    first = json.loads((tmp_path / "out" / "report.json").read_text())
    status, out, _ = run(tmp_path, job, "--resume")
    second = json.loads((tmp_path / "out" / "report.json").read_text())

    assert status == 0
    assert out.count("kept from the last run") >= 4
    assert {**first, "created": ""} == {**second, "created": ""}


def test_a_changed_contract_alone_repeats_no_measurement(tmp_path: Path, job: dict[str, Any]) -> None:
    run(tmp_path, job)
    job["contract"]["accuracy"][0] = {"metric": "mIoU", "min": 1.0}
    status, out, _ = run(tmp_path, job, "--resume")

    assert status == 1
    assert out.count("kept from the last run") >= 4


def test_a_killed_run_resumes_at_the_last_finished_step(tmp_path: Path, job: dict[str, Any]) -> None:
    process = launch(tmp_path, job)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out" / "state").glob("*ptq*/step.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not (tmp_path / "out" / "report.json").exists()

    status, out, _ = run(tmp_path, job, "--resume")

    assert status == 0
    assert "kept from the last run" in out
    leftovers = [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".tmp")]
    assert leftovers == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, job: dict[str, Any], sent: int, code: int) -> None:
    job["measure"] = {"warmup": 0, "runs": 1_000_000}
    job["contract"]["latency"] = [{"deadline_ms": 100, "engine": "ort"}]
    process = launch(tmp_path, job)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out" / "state").glob("*ptq*/step.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sent)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == code
    assert err.startswith(
        "interrupted: finished steps are kept; go on with: avcompress run recipe.yaml --out out --resume"
    )
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("demo --out d", "finished steps are kept; go on with: avcompress demo --out d --resume"),
        ("run r.yaml --resume", "finished steps are kept; go on with: avcompress run r.yaml --resume"),
        ("analyze r.yaml", "finished steps are kept; go on with: avcompress analyze r.yaml"),
        ("bundle rebuild a --out b", "nothing was written; start again with: avcompress bundle rebuild a --out b"),
        ("targets", "nothing was written; start again with: avcompress targets"),
    ],
)
def test_an_interrupted_command_names_one_that_it_understands(
    capsys: pytest.CaptureFixture[str], arguments: str, line: str
) -> None:
    assert _interrupted(Exit.INTERRUPTED, arguments.split()) == Exit.INTERRUPTED
    assert capsys.readouterr().err == f"interrupted: {line}\n"


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_that_a_library_swallows_comes_again(sent: str, code: int) -> None:
    program = f"""
import os, signal, sys, time, typer
from avcompress import cli

cli.process._AGAIN_S = 0.1

@cli.app.command()
def wait(context: typer.Context):
    context.obj.install()
    try:
        os.kill(os.getpid(), signal.{sent})
        time.sleep(20)
    except BaseException:
        pass
    time.sleep(20)

sys.exit(cli.process._exit_code(["wait"]))
"""
    found = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=False, timeout=19)

    assert found.returncode == code, found.stderr


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_inside_a_destructor_is_not_lost(sent: str, code: int) -> None:
    program = f"""
import os, signal, sys, time, typer
from avcompress import cli

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.{sent})
        time.sleep(0.01)

@cli.app.command()
def wait(context: typer.Context):
    context.obj.install()
    Closing()
    time.sleep(20)

sys.exit(cli.process._exit_code(["wait"]))
"""
    start = time.monotonic()
    found = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True, check=False)

    assert found.returncode == code, found.stderr
    assert found.stderr == "interrupted: nothing was written; start again with: avcompress wait\n"
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"", "net.onnx"), (b"this is not a network\n", "net.onnx"), (None, "net.onnx"), ("truncated", "net.onnx")],
)
def test_a_file_that_is_no_network_is_refused(tmp_path: Path, job: dict[str, Any], content: Any, part: str) -> None:
    path = tmp_path / "net.onnx"
    if content is None:
        path.unlink()
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:-700])
    else:
        path.write_bytes(content)

    assert_refused(run(tmp_path, job), part)
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_broken_image_is_named_and_fails_the_run_unless_the_recipe_skips_it(
    tmp_path: Path, job: dict[str, Any]
) -> None:
    broken = tmp_path / "val" / "images" / "3.png"
    broken.write_bytes(broken.read_bytes()[:100])

    assert_refused(run(tmp_path, job), "3.png")

    job["data"]["validation"]["on_bad_image"] = "skip"
    status, out, _ = run(tmp_path, job)
    assert status == 0
    assert "3.png" in out


def test_missing_images_and_an_empty_calibration_set_are_named(tmp_path: Path, job: dict[str, Any]) -> None:
    job["data"]["calibration"]["images"] = "nowhere"
    assert_refused(run(tmp_path, job), "nowhere")

    (tmp_path / "empty").mkdir()
    job["data"]["calibration"]["images"] = "empty"
    assert_refused(run(tmp_path, job), "empty")


def test_a_label_outside_the_class_table_is_named(tmp_path: Path, job: dict[str, Any]) -> None:
    mask = np.full((24, 32), 9, np.uint8)
    Image.fromarray(mask).save(tmp_path / "val" / "labels" / "2.png")
    assert_refused(run(tmp_path, job), "2.png", "9")


def test_a_missing_label_is_named(tmp_path: Path, job: dict[str, Any]) -> None:
    (tmp_path / "val" / "labels" / "2.png").unlink()
    assert_refused(run(tmp_path, job), "2.png")


def test_an_unknown_metric_is_refused_before_the_work_begins(tmp_path: Path, job: dict[str, Any]) -> None:
    job["contract"]["accuracy"][0]["metric"] = "mIuO"
    assert_refused(run(tmp_path, job), "mIuO", "mIoU")
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_path_that_leaves_the_data_root_is_resolved_and_shown(tmp_path: Path, job: dict[str, Any]) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    job["model"]["onnx"] = "../net.onnx"
    for split in ("calibration", "validation"):
        for key in {"images", "labels"} & set(job["data"][split]):
            job["data"][split][key] = "../" + job["data"][split][key]
    status, out, err = run(tmp_path, job, "--data-root", "inner")

    assert status == 0, err
    assert str(tmp_path / "net.onnx") in out


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"classes": ["low", "middle", "high", "more"]}, ("4 classes", "got 3", "`classes`")),
        ({"preprocess": {"size": [32, 32]}}, ("net.onnx", "preprocess.size")),
        ({"preprocess": {"size": [24, 32], "scale": float("inf")}}, ("finite number",)),
        ({"model": {"onnx": "train"}}, ("model.onnx", "expected a file, got a folder")),
        ({"model": {"onnx": ""}}, ("model.onnx", "expected a path")),
        ({"model": {"onnx": "net\0.onnx"}}, ("model.onnx", "expected a path")),
        (
            {"task": {"kind": "detection", "decode": "yolox"}, "contract": {"accuracy": [{"metric": "AP", "min": 0}]}},
            ("data.validation", "boxes"),
        ),
        ({"stages": [{"kind": "ptq"}, {"kind": "ptq"}]}, ("stages[1]", "expected `ptq` once, got it twice")),
        ({"stages": [{"kind": "ptq"}, {"kind": "dynamic"}]}, ("stages[1]", "expected `ptq` or `dynamic`, got both")),
        (
            {"stages": [{"kind": "ptq"}, {"kind": "equalize"}]},
            ("stages[1]", "expected `equalize` before `ptq`, got it after"),
        ),
        ({"contract": {"latency": [{"deadline_ms": 9}]}}, ("contract.latency[0].engine", "'openvino'", "ort")),
    ],
)
def test_a_recipe_that_does_not_fit_together_is_refused(
    tmp_path: Path, job: dict[str, Any], change: dict[str, Any], parts: tuple[str, ...]
) -> None:
    assert_refused(run(tmp_path, job | change), *parts)
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_data_root_that_is_no_folder_is_refused(tmp_path: Path, job: dict[str, Any]) -> None:
    assert_refused(run(tmp_path, job, "--data-root", "nowhere"), "--data-root", "nothing")
    assert_refused(run(tmp_path, job, "--data-root", "net.onnx"), "--data-root", "a file")


@pytest.mark.parametrize("path", [".", "nowhere/facts.json", "out/facts.json", "recipe.yaml"])
def test_a_json_file_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, job: dict[str, Any], path: str
) -> None:
    assert_refused(run(tmp_path, job, "--json", path), "--json")
    assert not (tmp_path / "out").exists()


def test_a_failed_resume_leaves_no_verdict_of_the_run_before(tmp_path: Path, job: dict[str, Any]) -> None:
    run(tmp_path, job)
    (tmp_path / "train" / "images" / "3.png").write_bytes(b"no longer an image")

    assert_refused(run(tmp_path, job, "--resume"), "3.png")
    assert not {"report.json", "report.html", "model.onnx"} & {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    "file", ["state/0-ptq/model.onnx", "state/predict-ort/predictions.npz", "engines/ort/model.onnx"]
)
def test_files_that_were_altered_since_are_noticed_and_made_again(
    tmp_path: Path, job: dict[str, Any], file: str
) -> None:
    run(tmp_path, job)
    network = (tmp_path / "out" / "model.onnx").read_bytes()
    first = json.loads((tmp_path / "out" / "report.json").read_text())
    path = tmp_path / "out" / file
    path.write_bytes(path.read_bytes()[:-20])
    status, _, err = run(tmp_path, job, "--resume")
    second = json.loads((tmp_path / "out" / "report.json").read_text())

    assert (status, err) == (0, "")
    assert second["accuracy"] == first["accuracy"]
    assert (tmp_path / "out" / "model.onnx").read_bytes() == network


def test_an_engine_that_the_recipe_no_longer_names_goes(tmp_path: Path, job: dict[str, Any]) -> None:
    job["target"]["engines"].append({"backend": "openvino"})
    run(tmp_path, job)
    job["target"]["engines"].pop()
    run(tmp_path, job, "--resume")

    assert [path.name for path in (tmp_path / "out" / "engines").iterdir()] == ["ort"]


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"HOME": "/proc", "XDG_CACHE_HOME": "/proc", "XDG_CONFIG_HOME": "/proc", "MPLCONFIGDIR": "/proc/none"},
        {"COLUMNS": "many"},
    ],
    ids=["ascii", "no-home", "columns"],
)
def test_a_poor_environment_changes_no_outcome_and_prints_no_noise(
    tmp_path: Path, job: dict[str, Any], variables: dict[str, str]
) -> None:
    status, out, err = run(tmp_path, job, **variables)

    assert (status, err) == (0, "")
    assert ("ok " in out) != ("✓" in out)


@pytest.mark.parametrize(("redirect", "code"), [("| head -n 1", 0), (">&-", 0), (">/dev/full", 3), ("2>&-", 0)])
def test_a_reader_that_goes_away_changes_no_outcome(
    tmp_path: Path, job: dict[str, Any], redirect: str, code: int
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(job))
    command = f"set -o pipefail; {sys.executable} -m avcompress run recipe.yaml --out out {redirect}"
    found = subprocess.run(["bash", "-c", command], cwd=tmp_path, text=True, capture_output=True, check=False)

    assert found.returncode == code, found.stderr
    assert len(found.stderr.splitlines()) == (1 if code else 0)


def test_an_interrupt_before_the_work_is_one_line(tmp_path: Path, job: dict[str, Any]) -> None:
    for listens in (False, True):
        process = launch(tmp_path, job)
        while "avcompress" not in Path(f"/proc/{process.pid}/cmdline").read_text():
            time.sleep(0.001)
        while listens and not catches_sigterm(process.pid):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        # While Python itself is still being loaded nobody can answer.
        assert process.returncode in (130, -signal.SIGINT)
        assert len(err.splitlines()) == 1 or not listens, err


def catches_sigterm(pid: int) -> bool:
    """Whether a process handles SIGTERM, as Python by itself does not."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_an_output_folder_with_somebody_elses_files_is_left_alone(tmp_path: Path, job: dict[str, Any]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert_refused(run(tmp_path, job), "out", "--out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def before_ours(folder: Path) -> str:
    """A PYTHONPATH with a folder put first; what it holds already stays, or another checkout would be tested."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def test_a_recipe_for_a_missing_backend_exits_with_3_and_the_command_that_installs_it(
    tmp_path: Path, job: dict[str, Any]
) -> None:
    job["target"]["engines"].append({"backend": "trt_rtx"})
    hide = tmp_path / "hide" / "tensorrt_rtx"
    hide.mkdir(parents=True)
    (hide / "__init__.py").write_text("raise ImportError('not here')")
    process_environment = os.environ | {"PYTHONPATH": before_ours(hide.parent)}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(job))
    result = subprocess.run(
        [sys.executable, "-m", "avcompress", "run", "recipe.yaml", "--out", "out"],
        cwd=tmp_path, env=process_environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert_refused((result.returncode, result.stdout, result.stderr), 'pip install "avcompress[rtx]"', code=3)


def test_a_backend_that_is_not_required_is_skipped_with_a_note(tmp_path: Path, job: dict[str, Any]) -> None:
    job["target"]["engines"].append({"backend": "trt_rtx", "required": False})
    hide = tmp_path / "hide" / "tensorrt_rtx"
    hide.mkdir(parents=True)
    (hide / "__init__.py").write_text("raise ImportError('not here')")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(job))
    result = subprocess.run(
        [sys.executable, "-m", "avcompress", "run", "recipe.yaml", "--out", "out"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": before_ours(hide.parent)},
        text=True,
        capture_output=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "trt_rtx" in result.stdout


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="here is a CUDA device")
@pytest.mark.parametrize("target", [None, "orin-agx@jetpack-6.0"])
@pytest.mark.parametrize("required", [True, False])
def test_an_engine_for_a_gpu_that_is_not_here_is_missed_or_skipped_with_what_to_do(
    tmp_path: Path, job: dict[str, Any], required: bool, target: str | None
) -> None:
    job["target"]["engines"].append({"backend": "trt", "required": required, "target": target})

    result = run(tmp_path, job)

    if required:
        assert_refused(result, "trt: expected a CUDA device", "build on the device", code=3)
        return
    assert result[0] == 0, result[2]
    assert "trt skipped (required: false): trt: expected a CUDA device" in result[1]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [engine["backend"] for engine in report["engines"]] == ["ort", "trt"]


def test_a_target_that_cannot_be_is_refused_before_the_work(tmp_path: Path, job: dict[str, Any]) -> None:
    job["target"]["engines"].append({"backend": "trt", "required": False, "target": "orin-agxx"})

    assert_refused(run(tmp_path, job), "target.engines[1].target: ", "did you mean orin-agx")


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="mounting a tiny disk needs root")
def test_a_full_disk_is_one_line_and_leaves_no_partial_file(tmp_path: Path, job: dict[str, Any]) -> None:
    disk = tmp_path / "out"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        result = run(tmp_path, job)
        files = [path.name for path in disk.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert_refused(result, "No space left", code=3)
    assert "report.json" not in files


def test_importing_avcompress_pulls_in_neither_torch_nor_a_runtime() -> None:
    code = (
        "import avcompress, avcompress.cli, sys; print([m for m in ('torch', 'onnx', 'openvino') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["rn"], ["run"], ["run", "recipe.yaml", "--out", "x", "--resme"]])
def test_wrong_usage_exits_with_2_and_one_line(arguments: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "avcompress", *arguments], text=True, capture_output=True, check=False
    )
    assert_refused((found.returncode, found.stdout, found.stderr), "; see avcompress --help")
    assert ".;" not in found.stderr


@pytest.mark.parametrize("command", ["run", "demo", "schema"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "avcompress", command, "--help"], text=True, capture_output=True, check=True
    )
    assert f"Example: avcompress {command}" in found.stdout


# --- networks that do not fit the recipe


def with_second_output(folder: Path) -> None:
    """Give the network a second output of the same shape, as training code leaves its auxiliary heads."""
    model = onnx.load(folder / "net.onnx")
    model.graph.node.append(helper.make_node("Neg", ["logits"], ["aux"], name="neg"))
    model.graph.output.append(helper.make_tensor_value_info("aux", TensorProto.FLOAT, [1, 3, 24, 32]))
    onnx.save(model, folder / "net.onnx")


def test_several_outputs_are_named_before_the_work_begins(tmp_path: Path, job: dict[str, Any]) -> None:
    with_second_output(tmp_path)

    result = run(tmp_path, job)

    assert_refused(result, "expected one, got 'logits' (1, 3, 24, 32), 'aux' (1, 3, 24, 32); set model.output")
    assert "quantize" not in result[1]


def test_values_that_are_not_finite_are_named_before_the_work_begins(
    tmp_path: Path, job: dict[str, Any], tiny_segmenter: Callable[[], onnx.ModelProto]
) -> None:
    model = tiny_segmenter()
    first = model.graph.node[0]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == first.input[1])
    huge = np.full_like(onnx.numpy_helper.to_array(weight), 3e38)
    weight.CopyFrom(onnx.numpy_helper.from_array(huge, weight.name))
    onnx.save(model, tmp_path / "net.onnx")

    result = run(tmp_path, job)

    assert_refused(result, f"{first.output[0]!r}, image ", "expected finite values, got NaN or infinity")
    assert "quantize" not in result[1]


def test_the_output_that_the_recipe_names_is_the_network(tmp_path: Path, job: dict[str, Any]) -> None:
    with_second_output(tmp_path)
    job["model"]["output"] = "logits"

    status, _, err = run(tmp_path, job)

    assert (status, err) == (0, "")
    assert [value.name for value in onnx.load(tmp_path / "out" / "model.onnx").graph.output] == ["logits"]


def test_an_output_that_the_network_lacks_is_refused(tmp_path: Path, job: dict[str, Any]) -> None:
    job["model"]["output"] = "main"

    assert_refused(run(tmp_path, job), "model.output: expected one of the network's outputs, logits, or a tensor")


def test_more_classes_than_the_network_has_are_refused(tmp_path: Path, job: dict[str, Any]) -> None:
    job["classes"] = [*CLASSES, "fourth"]

    result = run(tmp_path, job)

    assert_refused(result, "output 'logits': expected at least the 4 classes", "got 3")
    assert "quantize" not in result[1]


def test_what_the_first_sample_shows_is_refused_before_the_work_begins(tmp_path: Path, job: dict[str, Any]) -> None:
    job["data"]["validation"] = {"format": "images", "images": "val/images"}
    result = run(tmp_path, job)
    assert_refused(result, "data.validation: expected a format with masks for segmentation")
    assert result[1] == ""

    job["data"]["validation"] = {"format": "masks", "images": "val/images", "labels": "train/images"}
    result = run(tmp_path, job)
    assert_refused(result, "0.png: expected class indices in 8 bit")
    assert result[1] == ""


def test_a_folder_for_a_file_and_the_other_way_round_are_named(tmp_path: Path, job: dict[str, Any]) -> None:
    model = {**job, "model": {"onnx": "train"}}
    assert_refused(run(tmp_path, model), "model.onnx: expected a file, got a folder at")

    job["data"]["calibration"]["images"] = "net.onnx"
    assert_refused(run(tmp_path, job), "data.calibration.images: expected a folder, got a file at")


def test_a_file_of_tags_is_checked_like_other_paths(tmp_path: Path, job: dict[str, Any]) -> None:
    job["data"]["validation"]["tags"] = "tags.json"
    assert_refused(run(tmp_path, job), "data.validation.tags: expected a file, got nothing at")

    (tmp_path / "tags.json").write_text('{"no.png": {"light": "night"}}')
    assert_refused(run(tmp_path, job), "tags.json: expected the names of images, got 'no.png'")

    job["data"]["validation"]["tags"] = "train"
    assert_refused(run(tmp_path, job), "data.validation.tags: expected a file, got a folder at")


def stays_current(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether a resumed run reports what a run from the beginning does."""
    run(folder, recipe, "--resume")
    resumed = json.loads((folder / "out" / "report.json").read_text())["accuracy"]
    run(folder, recipe)
    return bool(resumed == json.loads((folder / "out" / "report.json").read_text())["accuracy"])


def test_resume_notices_other_images_of_the_same_size(tmp_path: Path, job: dict[str, Any]) -> None:
    for image in (tmp_path / "val" / "images").glob("*.png"):
        Image.open(image).save(image.with_suffix(".bmp"))
        image.unlink()
    run(tmp_path, job)
    for image in (tmp_path / "val" / "images").glob("*.bmp"):
        Image.fromarray(255 - np.asarray(Image.open(image))).save(image)

    assert stays_current(tmp_path, job)


def test_resume_notices_other_external_weights(tmp_path: Path, job: dict[str, Any]) -> None:
    network = tmp_path / "net.onnx"
    model = onnx.load(network)
    onnx.save(model, network, save_as_external_data=True, location="weights.bin", size_threshold=0)
    run(tmp_path, job)
    weights = np.fromfile(tmp_path / "weights.bin", np.float32)
    (-weights).tofile(tmp_path / "weights.bin")

    assert stays_current(tmp_path, job)


def test_resume_notices_a_change_in_a_file_that_the_network_s_file_imports(tmp_path: Path, job: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    (tmp_path / "parts.py").write_text("def last(x):\n    return x\n")
    (tmp_path / "net.py").write_text(
        "import torch\nimport parts\n\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return parts.last(self.b(self.a(x).relu()))\n"
    )
    job["model"] = {"factory": "net:Net", "import_from": "."}
    run(tmp_path, job)
    (tmp_path / "parts.py").write_text("def last(x):\n    return -x\n")

    assert stays_current(tmp_path, job)


@pytest.mark.parametrize(
    ("keys", "value", "part"),
    [
        (("model", "args"), {"num_classes": 5}, "class"),
        (("preprocess", "size"), [200, 320], "size"),
        (("model", "args"), {"num_classes": 6, "width": 0}, "model.args"),
        (("classes",), ["zebra", "b", "c", "d", "e", "f"], "classes"),
    ],
)
def test_a_mistake_in_a_training_recipe_is_found_before_the_training(
    tmp_path: Path, keys: tuple[str, ...], value: Any, part: str
) -> None:
    pytest.importorskip("torch")
    recipe = yaml.safe_load((Path(avcompress.__file__).parent / "demo" / "detector.yaml").read_text())
    recipe["stages"][0]["steps"] = 1_000_000
    for source in recipe["data"].values():
        source["count"] = 4
    place = recipe
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value

    assert_refused(run(tmp_path, recipe), part)
