"""`avcompress update`: what is learned and held, what an update leaves behind, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from avcompress.checkpoint import load_artifact
from avcompress.cli.process import _exit_code
from avcompress.quant.learning.qat_module import tied
from avcompress.quant.stages import qat as stage_module
from avcompress.recipe_load import load_update
from avcompress.spec import AvcompressError
from avcompress.updating import UpdateJob, execute_update
from avcompress.watch import SilentWatch
from engines.manifest import read_manifest
from engines.qdq import qdq_sites

LABELS = ("low", "middle", "high")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_(folder: Path, network: onnx.ModelProto, seed: int, light: float) -> None:
    """Six images of a brightness, labelled by what the float network answers."""
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(6):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(small).resize((32, 24), Image.Resampling.BICUBIC))
        image = (image * light).astype(np.uint8)
        (logits,) = session.run(None, {"images": image.transpose(2, 0, 1)[None].astype(np.float32) / 255})
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray(logits[0].argmax(0).astype(np.uint8)).save(folder / "labels" / f"{i}.png")


def masks(folder: str) -> dict[str, Any]:
    return {"format": "masks", "images": f"{folder}/images", "labels": f"{folder}/labels"}


def recipe(**changes: Any) -> dict[str, Any]:
    facts = {
        "name": "tiny",
        "task": {"kind": "segmentation"},
        "model": {"onnx": "net.onnx"},
        "classes": list(LABELS),
        "preprocess": {"size": [24, 32], "scale": 1 / 255},
        "data": {"calibration": {"format": "images", "images": "dim/images"}, "validation": masks("dim_val")},
        "stages": [{"kind": "ptq", "ranges": "minmax", "keep_float": {"head": False}}],
        "target": {"engines": [{"backend": "ort"}]},
        "contract": {"accuracy": [{"metric": "mIoU", "min": 0.5}]},
        "validation": {"resamples": 100},
        "measure": {"warmup": 1, "runs": 5},
    }
    return facts | changes


def day(**changes: Any) -> dict[str, Any]:
    """An update to images that are three times as bright as those that the network was calibrated on."""
    facts = {
        "name": "day",
        "data": {"train": {"format": "images", "images": "bright/images"}, "validation": masks("bright_val")},
        "qat": {"steps": 6, "batch_size": 4, "keep_every": 1},
        "forgetting": [{"metric": "mIoU", "max_drop": 0.15}],
        "gain": [{"metric": "mIoU", "min_gain": 0.2}],
    }
    return facts | changes


def write(folder: Path, name: str, facts: dict[str, Any]) -> str:
    (folder / name).write_text(yaml.safe_dump(facts))
    return str(folder / name)


def call(*arguments: str) -> int:
    """A command's exit code; what it does about signals is undone."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        return _exit_code([*arguments, "--quiet"] if arguments[0] != "bundle" else list(arguments))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory, request) -> Path:
    """Images, a network, a run of it (`first`) and an update of that (`second`)."""
    network = request.getfixturevalue("tiny_network")
    folder = tmp_path_factory.mktemp("update")
    (folder / "net.onnx").write_bytes(network.SerializeToString())
    for name, seed, light in (
        ("dim", 0, 0.3), ("dim_val", 1, 0.3), ("bright", 2, 1.0), ("bright_val", 3, 1.0), ("half", 4, 0.5),
        ("half_val", 5, 0.5),
    ):  # fmt: skip
        draw_(folder / name, network, seed, light)
    with torch_on_one_thread():
        assert call("run", write(folder, "recipe.yaml", recipe()), "--out", str(folder / "first")) == 0
        assert update(folder, "first", day(), "second") == 0
    return folder


class torch_on_one_thread:  # noqa: N801 (reads as a function)
    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


@pytest.fixture(scope="module")
def tiny_network() -> onnx.ModelProto:
    import importlib.util

    spec = importlib.util.spec_from_file_location("shared", Path(__file__).parent / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._tiny_segmenter()


def update(folder: Path, previous: str, facts: dict[str, Any], out: str, *options: str) -> int:
    settings = write(folder, f"{out}.yaml", facts)
    return call("update", str(folder / previous), settings, "--out", str(folder / out), *options)


def test_ranges_grow_to_the_new_images_so_that_they_are_gained_and_the_old_ones_kept(place):
    facts = report(place / "second")
    before, after = (load_artifact(place / name) for name in ("first/state/0-ptq", "second/state/0-ranges"))
    scales = [
        {site.tensor: site.params.scale[0] for site in qdq_sites(each.model) if not site.constant}
        for each in (before, after)
    ]

    assert facts["passed"]
    assert [line["name"] for line in facts["contract"]] == [
        "mIoU @ ort",
        "old images, tiny: mIoU drop @ ort",
        "new images, day: mIoU gain @ ort",
    ]
    assert [line["domain"] for line in facts["contract"]] == ["", "tiny", "day"]
    assert all(scales[1][name] > 2.5 * scales[0][name] for name in scales[0])
    assert tied(after) == tied(before)
    old, new = facts["update"]["domains"]
    figures = [each["comparisons"]["ort"]["slices"][0] for each in (old, new)]
    assert figures[0]["drop"]["mIoU"]["value"] == pytest.approx(facts["contract"][1]["measured"])
    gain = figures[1]["network"]["mIoU"]["value"] - figures[1]["reference"]["mIoU"]["value"]
    assert gain == pytest.approx(facts["contract"][2]["measured"])
    assert gain > 0.2


def test_the_report_says_what_it_was_updated_from(place):
    facts, first = report(place / "second"), report(place / "first")
    known = facts["update"]

    assert known["previous_sha256"] == first["provenance"]["networks"]["compressed"]
    assert (known["name"], known["number"], known["replay"], known["metric"]) == ("day", 1, 0.5, "mIoU")
    assert facts["provenance"]["networks"]["version before"] == known["previous_sha256"]
    assert facts["provenance"]["networks"]["float"] == first["provenance"]["networks"]["float"]
    assert facts["sources"]["day"]["images"] == 6
    manifest = read_manifest(place / "second" / "engines" / "ort")
    assert manifest.updated_from == known["previous_sha256"]
    assert (manifest.calibration.images, manifest.calibration.ranges) == (12, "minmax, moved by an update")
    page = (place / "second" / "report.html").read_text()
    assert '<h2 id="update">Update</h2>' in page
    assert known["previous_sha256"] in page


def test_what_it_leaves_is_an_output_folder_that_other_commands_take(place, tmp_path):
    out = str(place / "second")

    assert (place / "second" / "recipe.yaml").read_bytes() == (place / "first" / "recipe.yaml").read_bytes()
    assert (place / "second" / "updates" / "1.yaml").read_bytes() == (place / "second.yaml").read_bytes()
    assert call("validate", out, "--data-root", str(place)) == 0
    assert call("compare", str(place / "first"), out, "--data-root", str(place)) == 0
    assert call("bundle", "create", out, "--engine", "ort", "--out", str(tmp_path / "bundle")) == 0


def test_an_update_is_updated_again_replays_what_came_before_and_is_held_to_all_of_it(place):
    half = day(
        name="half",
        data={"train": {"format": "images", "images": "half/images"}, "validation": masks("half_val")},
        gain=[{"metric": "mIoU", "max_drop": 0.1}],
    )

    assert update(place, "second", half, "third") == 0

    facts = report(place / "third")
    assert [each["name"] for each in facts["update"]["domains"]] == ["tiny", "day", "half"]
    assert [each["new"] for each in facts["update"]["domains"]] == [False, False, True]
    assert [line["name"].partition(":")[0] for line in facts["contract"][1:]] == [
        "old images, tiny",
        "old images, day",
        "new images, half",
    ]
    assert facts["update"]["number"] == 2
    ranges = next(stage for stage in facts["stages"] if stage["name"].startswith("re-estimate"))
    assert ranges["name"] == "re-estimate ranges (12 old images, 6 new)"
    assert "0-ranges" not in str(facts["update"])
    assert sorted(path.name for path in (place / "third" / "updates").iterdir()) == ["1.yaml", "2.yaml"]
    learned = next(stage for stage in facts["stages"] if stage["name"].startswith("learn"))
    assert "from 18 images" in learned["log"][0]  # 6 dim and 6 bright ones again, 6 new


def forgetting(place: Path, share: float) -> dict[str, Any]:
    """An update that teaches nonsense: every pixel of the new images is of the first class."""
    wrong = place / "wrong"
    if not wrong.exists():
        shutil.copytree(place / "bright", wrong)
        for path in (wrong / "labels").iterdir():
            Image.fromarray(np.zeros((24, 32), np.uint8)).save(path)
    learned = {"steps": 20, "batch_size": 4, "learning_rate": 0.5, "losses": [{"kind": "labels"}]}
    return day(data={"train": masks("wrong")}, replay={"share": share}, qat=learned, gain=[])


def test_what_is_forgotten_beyond_the_bound_fails_with_exit_code_1_and_replay_holds_some_of_it(place, capsys):
    assert update(place, "first", forgetting(place, 0), "forgetful") == 1
    told = capsys.readouterr().out
    update(place, "first", forgetting(place, 0.75), "held")

    broken = [line for line in report(place / "forgetful")["contract"] if not line["passed"]]
    assert "old images, tiny: mIoU drop @ ort" in [line["name"] for line in broken]
    assert "failed: old images, tiny: mIoU drop @ ort: expected <= 0.1500, measured" in told
    drops = [report(place / name)["contract"][1]["measured"] for name in ("held", "forgetful")]
    assert drops[0] < drops[1]


def job(place: Path, out: Path, resume: bool = False) -> UpdateJob:
    path = place / "second.yaml"
    return UpdateJob(place / "first", load_update(path), path, place, out, resume)


def test_a_killed_update_goes_on_to_the_bytes_of_an_uninterrupted_one(place, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    with monkeypatch.context() as patched:

        def stop(*_):
            raise KeyboardInterrupt

        patched.setattr(stage_module, "trained_artifact", stop)
        with pytest.raises(KeyboardInterrupt):
            execute_update(job(place, out), SilentWatch())
    assert (out / "state" / "1-update-under-way" / "checkpoint.safetensors").exists()
    assert not (out / "report.json").exists()

    execute_update(job(place, out, resume=True), SilentWatch())

    assert (out / "model.onnx").read_bytes() == (place / "second" / "model.onnx").read_bytes()
    assert not (out / "state" / "1-update-under-way").exists()
    monkeypatch.setattr(stage_module, "learn", None)  # a third one computes nothing
    execute_update(job(place, out, resume=True), SilentWatch())


def test_a_cast_at_the_end_of_the_recipe_is_repeated(place):
    cast = recipe(stages=[{"kind": "ptq"}, {"kind": "cast"}], contract={"accuracy": [{"metric": "mIoU", "min": 0.0}]})
    assert call("run", write(place, "cast.yaml", cast), "--out", str(place / "cast")) == 0

    assert update(place, "cast", day(gain=[], forgetting=[{"metric": "mIoU", "max_drop": 1.0}]), "recast") == 0

    kinds = {
        init.data_type for init in onnx.load(place / "recast" / "model.onnx").graph.initializer
    }  # the head stays float by the rules: it is cast
    assert onnx.TensorProto.FLOAT16 in kinds
    assert load_artifact(place / "recast" / "state" / "2-cast").log[-1].startswith("cast: ")


@pytest.mark.slow
def test_an_update_under_torchrun_trains_in_two_processes_and_reports_once(place, tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    settings = write(place, "two.yaml", day())
    done = subprocess.run(
        [*command, "avcompress", "update", str(place / "first"), settings, "--out", str(tmp_path / "two")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("contract met") == 1
    logs = [load_artifact(out / "state" / "1-update").log[-2] for out in (place / "second", tmp_path / "two")]
    one, two = (float(log.split("loss ")[1].split(",")[0]) for log in logs)
    assert two == pytest.approx(one, rel=1e-3)


# --- what is refused


def refused(place: Path, facts: dict[str, Any], previous: str = "first", out: str = "refused") -> str:
    path = Path(write(place, f"{out}.yaml", facts))
    with pytest.raises(AvcompressError) as error:
        execute_update(UpdateJob(place / previous, load_update(path), path, place, place / out), SilentWatch())
    assert error.value.exit_code == 2
    assert previous == out or not (place / out).exists()
    return str(error.value)


def test_what_is_no_output_folder_is_refused(place, tmp_path):
    assert "expected the output folder of `avcompress run` or `avcompress update`, got nothing" in refused(
        place, day(), "nowhere"
    )
    assert "got another folder there" in refused(place, day(), "dim")
    assert "--out: expected another folder than that of the version before" in refused(place, day(), out="first")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.onnx", "model.onnx: expected the file that the engines were built with, sha256 "),
        ("recipe.yaml", "recipe.yaml: expected the file that the engines were built with, sha256 "),
        ("state/0-ptq/artifact.json", "state/0-ptq: expected the files that the run wrote there, got others"),
        ("engines/ort/model.onnx", "model.onnx: expected"),
    ],
)
def test_a_version_that_was_changed_since_is_refused(place, tmp_path, file, message):
    shutil.copytree(place / "first", place / "changed")
    try:
        path = place / "changed" / file
        with path.open("ab") as changed:
            changed.write(b"\n" if file.endswith(("yaml", "json")) else b"\x00")
        assert message in refused(place, day(), "changed")
    finally:
        shutil.rmtree(place / "changed")


def test_the_network_of_another_run_is_refused(place):
    shutil.copytree(place / "first", place / "other")
    try:
        shutil.copy(place / "second" / "model.onnx", place / "other" / "model.onnx")
        assert "expected the file that the engines were built with" in refused(place, day(), "other")
    finally:
        shutil.rmtree(place / "other")


def test_a_run_without_quantized_activations_is_refused(place):
    shutil.copytree(place / "first", place / "dynamic")
    write(place / "dynamic", "recipe.yaml", recipe(stages=[{"kind": "dynamic"}]))

    assert "expected a run with `ptq`, got none" in refused(place, day(), "dynamic")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": {"format": "images", "images": "empty"}}, "gain": []}, "empty: expected images"),
        (
            {"data": {"train": {"format": "images", "images": "gone"}}, "gain": []},
            "day.data.train.images: expected a folder, got nothing",
        ),
        (
            {"qat": {"steps": 1, "batch_size": 4, "losses": [{"kind": "labels"}]}},
            "data.train: expected a format with masks for segmentation, got 'images' with no labels",
        ),
        (
            {"replay": {"losses": [{"kind": "labels"}]}},
            "replay.losses: expected a format with masks for segmentation, got 'images' with no labels",
        ),
        (
            {"data": {"train": masks("strange")}, "gain": []},
            "strange/labels/0.png: expected",
        ),
        ({"name": "tiny"}, "name: expected one that is not taken (tiny), got 'tiny'"),
        ({"forgetting": [{"metric": "mIOU", "max_drop": 0.1}]}, "forgetting[0].metric: expected a metric of this task"),
        (
            {"forgetting": [{"metric": "IoU/low", "max_drop": 0.1}]},
            "forgetting: expected a bound on mIoU, the contract's first metric, got IoU/low; add one",
        ),
        (
            {"forgetting": [{"metric": "mIoU", "max_drop": 0.1}, {"metric": "mIoU", "slice": "fog:3", "max_drop": 1}]},
            "forgetting[1].slice: expected a slice of this data",
        ),
        (
            {"gain": [{"metric": "mIoU", "slice": "weather:fog", "min": 0.1}]},
            "gain[0].slice: expected a slice of this data",
        ),
        (
            {"qat": {"steps": 1, "batch_size": 4, "method": "lsq_plus"}},
            "qat.method: expected activations: asymmetric",
        ),
        (
            {"qat": {"steps": 1, "batch_size": 4, "teacher": {"onnx": "gone.onnx"}}},
            "qat.teacher.onnx: expected a file, got nothing",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(place, changes, message):
    (place / "empty").mkdir(exist_ok=True)
    if not (place / "strange").exists():  # a class that the network does not have
        shutil.copytree(place / "bright", place / "strange")
        for path in (place / "strange" / "labels").iterdir():
            Image.fromarray(np.full((24, 32), 7, np.uint8)).save(path)
    late = "slice" in message
    if late:  # the labels are read first, and nothing is trained
        path = Path(write(place, "late.yaml", day(**changes)))
        with pytest.raises(AvcompressError) as error:
            execute_update(UpdateJob(place / "first", load_update(path), path, place, place / "late"), SilentWatch())
        assert message in str(error.value)
        assert not (place / "late" / "state" / "0-ranges").exists()
    else:
        assert message in refused(place, day(**changes))
