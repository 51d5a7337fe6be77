"""The `qat` stage of a recipe: steps that resume, the losses it learns by, and what is refused before any work."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import yaml
from PIL import Image

from avcompress.checkpoint import load_artifact
from avcompress.quant.stages import qat as stage_module
from avcompress.recipe import Recipe
from avcompress.running.bench import Bench, Job, prepare
from avcompress.running.compress import compress
from avcompress.running.teaching import images_of
from avcompress.running.tuning import lesson_of
from avcompress.spec import RecipeError
from avcompress.watch import SilentWatch
from engines.qdq import qdq_sites

pytestmark = pytest.mark.usefixtures("one_thread")
QAT = {"kind": "qat", "steps": 3, "batch_size": 2, "keep_every": 1}
LABELS = {"losses": [{"kind": "labels"}]}
LONG = {**QAT, "steps": 20}
TASK = {"kind": "detection", "decode": "ltrb"}


@pytest.fixture(scope="module")
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A small detector as an ONNX file, for 64x64."""
    from avcompress.export import to_onnx
    from avcompress.models import detector

    path = tmp_path_factory.mktemp("network") / "net.onnx"
    onnx.save(to_onnx(detector(num_classes=6).eval(), (64, 64)), path)
    return path


def recipe(network: Path, *stages: dict, **changes) -> Recipe:
    scenes = {"format": "scenes", "count": 4, "size": [64, 64]}
    facts = {
        "name": "small",
        "task": TASK,
        "model": {"onnx": network.name},
        "classes": ["car", "truck", "pedestrian", "cyclist", "sign", "light"],
        "preprocess": {"size": [64, 64], "mean": [114.0] * 3, "std": [58.0] * 3},
        "data": {"calibration": scenes, "validation": scenes},
        "stages": [{"kind": "ptq"}, *(stages or (QAT,))],
        "target": {"engines": [{"backend": "ort"}]},
        "contract": {"accuracy": [{"metric": "AP", "min": 0.1}]},
    }
    return Recipe.model_validate(facts | changes)


def bench(network: Path, settings: Recipe, out: Path, resume: bool = False) -> Bench:
    path = network.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    out.mkdir(exist_ok=True)
    return prepare(Job(settings, path, network.parent, out, resume), SilentWatch())


def test_a_killed_stage_goes_on_to_the_bytes_of_an_uninterrupted_one_and_is_then_kept(network, tmp_path, monkeypatch):
    settings = recipe(network, {"kind": "correct_bias", "images": 4}, QAT)
    whole = compress(bench(network, settings, tmp_path / "whole"))
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", killed)
    shutil.rmtree(killed / "state" / "2-qat")
    with monkeypatch.context() as patched:

        def stop(*_):
            raise KeyboardInterrupt

        patched.setattr(stage_module, "trained_artifact", stop)
        with pytest.raises(KeyboardInterrupt):
            compress(bench(network, settings, killed, resume=True))
    assert (killed / "state" / "2-qat-under-way" / "checkpoint.safetensors").exists()
    assert not (killed / "state" / "2-qat").exists()

    resumed = compress(bench(network, settings, killed, resume=True))

    assert resumed.network.read_bytes() == whole.network.read_bytes()
    assert not (killed / "state" / "2-qat-under-way").exists()
    assert [line.split(",")[0] for line in whole.logs["2-qat"]] == [
        "qat: lsq",
        f"qat: scales changed on average: {whole.logs['2-qat'][1].split(': ')[2].split(',')[0]}",
    ]
    before = load_artifact(whole.network.parent / "state" / "1-correct_bias")
    places = [[(s.tensor, s.edges) for s in qdq_sites(a.model)] for a in (before, whole.artifact)]
    assert places[0] == places[1]
    assert before.model != whole.artifact.model
    monkeypatch.setattr(stage_module, "qat", None)  # a third run computes nothing
    again = compress(bench(network, settings, killed, resume=True))
    assert again.network.read_bytes() == whole.network.read_bytes()


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_tuning as t
from pathlib import Path
network, out = Path({network!r}), Path({out!r})
t.compress(t.bench(network, t.recipe(network, t.LONG), out))
"""


def test_a_stage_that_is_killed_at_any_moment_ends_with_the_bytes_of_one_that_was_not(network, tmp_path):
    out, moment = tmp_path / "killed", random.Random(0).uniform(0, 0.5)  # noqa: S311
    script = SCRIPT.format(tests=str(Path(__file__).parent), network=str(network), out=str(out))
    under_way = out / "state" / "1-qat-under-way"
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not under_way.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    whole = compress(bench(network, recipe(network, LONG), tmp_path / "whole"))
    resumed = compress(bench(network, recipe(network, LONG), out, resume=True))

    assert resumed.network.read_bytes() == whole.network.read_bytes()
    assert not under_way.exists()


def test_it_learns_from_the_training_images_where_there_are_some_and_else_from_calibration(network, tmp_path):
    plain = bench(network, recipe(network), tmp_path)
    other = {"format": "scenes", "count": 2, "size": [64, 64], "seed": 3}
    data = recipe(network).data.model_dump()
    trained = bench(network, recipe(network, data={**data, "train": other}), tmp_path)

    assert images_of(plain) is plain.calibration
    assert images_of(trained) is trained.train


def test_images_of_a_list_are_learned_from_together_and_each_of_its_sources_needs_what_losses_need(network, tmp_path):
    data = recipe(network).data.model_dump()
    Image.new("RGB", (64, 64)).save(network.parent / "plain.png")
    listed = [data["calibration"], {"format": "images", "images": "."}]
    free = bench(network, recipe(network, data={**data, "train": listed, "calibration": listed}), tmp_path)

    names = [*(f"scenes/scene_0_{i:05d}" for i in range(4)), "./plain.png"]
    assert list(images_of(free).names) == list(free.calibration.names) == names
    with pytest.raises(RecipeError, match=r"data\.train\[1\]: expected a format with boxes .* 'images' with no labels"):
        bench(network, recipe(network, {**QAT, **LABELS}, data={**data, "train": listed}), tmp_path)
    listed[1]["images"] = "gone"
    with pytest.raises(RecipeError, match=r"data\.train\[1\]\.images: expected a folder, got nothing"):
        bench(network, recipe(network, data={**data, "train": listed}), tmp_path)


def test_losses_of_a_task_need_no_labels_and_those_of_the_recipe_may(network, tmp_path):
    free = bench(network, recipe(network), tmp_path)
    labelled = bench(network, recipe(network, {**QAT, "losses": [{"kind": "labels"}, {"kind": "response"}]}), tmp_path)
    without = bench(
        network, recipe(network, {**QAT, "losses": [{"kind": "labels"}]}, task={**TASK, "decode": "yolov5"}), tmp_path
    )

    assert not lesson_of(free, "stages[1]", free.recipe.stages[1]).labels
    assert lesson_of(labelled, "stages[1]", labelled.recipe.stages[1]).labels
    with pytest.raises(RecipeError, match=r"stages\[1\].losses: expected losses without labels for decode: yolov5"):
        lesson_of(without, "stages[1]", without.recipe.stages[1])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([QAT, {"kind": "correct_bias"}], r"stages\[2\]: expected `correct_bias` before `qat`, got it after"),
        ([{"kind": "cast"}, QAT], r"stages\[2\]: expected `qat` before `cast`, got it after"),
        (
            [{**QAT, "method": "lsq_plus"}],
            r"stages\[1\].method: expected activations: asymmetric in `ptq` for lsq_plus",
        ),
        ([{**QAT, "teacher": {"onnx": "gone.onnx"}}], r"stages\[1\].teacher.onnx: expected a file, got nothing"),
    ],
)
def test_a_stage_at_the_wrong_place_or_with_what_is_not_there_is_refused(network, tmp_path, stages, message):
    with pytest.raises(RecipeError, match=message):
        bench(network, recipe(network, *stages), tmp_path)


def test_it_needs_ptq_before_it(network, tmp_path):
    settings = recipe(network, stages=[{"kind": "dynamic"}, QAT])

    with pytest.raises(RecipeError, match=r"stages\[1\]: expected `ptq` before `qat`, got none"):
        bench(network, settings, tmp_path)
