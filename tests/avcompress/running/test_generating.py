"""`format: generated`: a run calibrates and trains on pictures that it makes of its network's statistics."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from avcompress.checkpoint import load_artifact
from avcompress.pipeline import execute
from avcompress.recipe import Recipe
from avcompress.recipe_load import load_update
from avcompress.running.bench import Job, prepare
from avcompress.running.compress import Compressed, compress
from avcompress.spec import RecipeError
from avcompress.updating import UpdateJob, execute_update
from avcompress.watch import SilentWatch
from engines.onnx_graph import fold_batch_norms, name_nodes

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[1,3,24,32] images) => (float[1,3,24,32] logits) {
    a = Conv <pads = [1,1,1,1]> (images, wa)
    n = BatchNormalization (a, scale, shift, mean, variance)
    r = Relu (n)
    logits = Conv <pads = [1,1,1,1]> (r, wy)
}
"""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(mean: float = 0.5) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = parser.parse_model(TEXT)
    values = {"wa": rng.normal(0, 0.3, (8, 3, 3, 3)), "wy": rng.normal(0, 0.3, (3, 8, 3, 3))}
    values |= {"scale": np.ones(8), "shift": np.zeros(8), "mean": np.full(8, mean), "variance": np.ones(8)}
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return name_nodes(model)


@pytest.fixture
def facts(tmp_path, job) -> dict[str, Any]:
    """The tiny job without a single calibration image."""
    onnx.save(network(), tmp_path / "net.onnx")
    job["data"]["calibration"] = {"format": "generated", "count": 3, "batch_size": 2, "steps": 4}
    job["contract"] = {"accuracy": [{"metric": "mIoU", "min": 0.0}]}
    return job


def job_of(folder: Path, facts: dict[str, Any], resume: bool = False) -> Job:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(facts))
    return Job(Recipe.model_validate(facts), path, folder, folder / "out", resume)


def run(folder: Path, facts: dict[str, Any], resume: bool = False) -> Compressed:
    """The steps up to the compressed network."""
    bench = prepare(job_of(folder, facts, resume), SilentWatch())
    bench.job.out.mkdir(exist_ok=True)
    return compress(bench)


def pictures(folder: Path, part: str = "calibration") -> dict[str, bytes]:
    found = sorted((folder / "out" / "state" / f"generate-{part}").glob("*.png"))
    return {path.name: path.read_bytes() for path in found}


def test_a_network_is_quantized_and_trained_without_an_image(tmp_path, facts):
    facts["stages"].append({"kind": "qat", "steps": 2, "batch_size": 2, "batch_norm": "frozen"})

    outcome = execute(job_of(tmp_path, facts), SilentWatch())

    assert list(pictures(tmp_path)) == [f"generated-{i:05d}.png" for i in range(3)]
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node)
    source = outcome.report.sources["calibration"]
    assert (source.format, source.images) == ("generated", 3)
    assert (
        "from 3 images" in json.loads((tmp_path / "out" / "state" / "1-qat" / "artifact.json").read_text())["log"][-2]
    )


def test_a_run_that_goes_on_keeps_the_pictures_and_a_changed_recipe_makes_others(tmp_path, facts):
    run(tmp_path, facts)
    first = pictures(tmp_path)
    made = (tmp_path / "out" / "state" / "generate-calibration" / "step.json").stat().st_mtime_ns

    run(tmp_path, facts, resume=True)
    assert (tmp_path / "out" / "state" / "generate-calibration" / "step.json").stat().st_mtime_ns == made

    facts["data"]["calibration"]["seed"] = 1
    run(tmp_path, facts, resume=True)
    assert list(pictures(tmp_path)) == list(first)
    assert pictures(tmp_path) != first


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (fold_batch_norms(network()), None),  # folded here: what it knew is still told
        (network(mean=0.0), "expected a network that was trained for format: generated, got batch normalizations that"),
    ],
    ids=["folded here", "never trained"],
)
def test_what_the_network_knows_decides(tmp_path, facts, model, reason):
    onnx.save(model, tmp_path / "net.onnx")
    if reason is None:
        assert run(tmp_path, facts) is not None
        return

    with pytest.raises(RecipeError, match=rf"^data\.calibration: {reason}"):
        run(tmp_path, facts)


def test_a_network_without_statistics_is_refused(tmp_path, facts, tiny_segmenter):
    onnx.save(tiny_segmenter(), tmp_path / "net.onnx")

    with pytest.raises(
        RecipeError, match=r"^data\.calibration: expected a network with batch normalization for .*images$"
    ):
        run(tmp_path, facts)
    assert not (tmp_path / "out" / "state" / "generate-calibration").exists()


def test_pictures_without_labels_are_no_validation(tmp_path, facts):
    facts["data"]["validation"] = facts["data"]["calibration"]

    with pytest.raises(
        RecipeError, match=r"^data\.validation: expected a format with masks .*got 'generated' with no l"
    ):
        run(tmp_path, facts)


def test_a_command_that_makes_none_says_where_they_are(tmp_path, facts, cli):
    (tmp_path / "recipe.yaml").write_text(json.dumps(facts))

    code, _, err = cli("calibrate", "recipe.yaml", "--out", "numbers.stats")

    assert code == 2
    assert "got generated ones, which a run makes of its network" in err


def test_generated_images_are_the_old_ones_of_an_update_and_stay_those_of_the_next(tmp_path, facts):
    execute(job_of(tmp_path, facts), SilentWatch())
    settings = {
        "name": "more",
        "data": {"train": {"format": "images", "images": "val/images"}},
        "qat": {"steps": 1, "batch_size": 2},
        "forgetting": [{"metric": "mIoU", "max_drop": 1.0}],
    }
    for number, previous in enumerate(("out", "more0")):
        path = tmp_path / f"more{number}.yaml"
        path.write_text(json.dumps(settings | {"name": f"more{number}"}))
        out = tmp_path / f"more{number}"

        execute_update(UpdateJob(tmp_path / previous, load_update(path), path, tmp_path, out), SilentWatch())

        kept = sorted((out / "state" / "generate-calibration").glob("*.png"))
        assert {each.name: each.read_bytes() for each in kept} == pictures(tmp_path)
        learned = load_artifact(out / "state" / "1-update").log[-2]
        assert f"from {3 + 6 * (number + 1)} images" in learned
