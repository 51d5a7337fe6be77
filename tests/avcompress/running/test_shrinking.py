"""The stages that make the float network smaller: a chain of steps, from a torch module or an ONNX file on."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from avcompress.export import to_onnx
from avcompress.prune import without
from avcompress.prune.latency import measure
from avcompress.prune.latency.measure import designs, structure_digest
from avcompress.prune.latency.table import Design, LatencyTable
from avcompress.prune.latency.widths import counts_of
from avcompress.recipe import Recipe
from avcompress.running import compress as compressing
from avcompress.running.bench import Bench, Job, prepare
from avcompress.running.compress import Compressed, compress
from avcompress.running.float_model import as_graph, from_factory, from_file, smaller
from avcompress.spec import Artifact, ModelError, RecipeError, Track
from avcompress.structure import load_structure
from avcompress.watch import SilentWatch
from engines.onnx_graph import initializers, macs, total_macs
from validation.report import Pruning

SIZE = (24, 32)
CODE = '''
import torch
from torch import nn


class Net(nn.Module):
    """3 -> 16 -> 24 -> 10 channels, at half the size inside."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.head = nn.Conv2d(24, 10, 1)
        for norm in (self.first[1], self.second[1]):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x):
        return nn.functional.interpolate(self.head(self.second(self.first(x))), scale_factor=2.0)

    def targets(self, samples):
        return torch.stack([torch.from_numpy(sample.mask).long() for sample in samples])

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, ignore_index=255)


def net():
    return Net()


def twice_the_width(network, coupling):
    """The channels of a layer, the later the more important."""
    return {group.name: list(range(len(group.channels))) for group in coupling.groups}
'''
TRAIN = {"kind": "train", "steps": 2, "batch_size": 2, "keep_every": 1}
DISTILL = {"kind": "distill", "steps": 2, "batch_size": 2, "keep_every": 1, "losses": [{"kind": "soft"}]}
PRUNE = {"kind": "prune", "ratio": 0.5, "scope": "local"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A recipe for a small torch module with a loss of its own, beside the recipe."""
    (tmp_path / "net_that_shrinks.py").write_text(CODE)
    scenes = {"format": "scenes", "size": [48, 64], "labels": "masks"}
    return {
        "name": "smaller",
        "task": {"kind": "segmentation"},
        "model": {"factory": "net_that_shrinks:net", "import_from": "."},
        "preprocess": {"size": SIZE, "mean": [114.0] * 3, "std": [58.0] * 3},
        "data": {
            "train": {**scenes, "count": 4},
            "calibration": {**scenes, "count": 2, "seed": 1},
            "validation": {**scenes, "count": 2, "seed": 2},
        },
        "stages": [PRUNE],
        "target": {"engines": [{"backend": "ort"}]},
        "contract": {"accuracy": [{"metric": "mIoU", "min": 0.0}]},
    }


@pytest.fixture
def file_job(job: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same network as an ONNX file, its normalization kept."""
    bench = make_bench(job, tmp_path, "other")
    module = from_factory(bench, bench.recipe.model).artifact.model
    onnx.save(to_onnx(module, SIZE, keep_norms=True), tmp_path / "net.onnx")
    return {**job, "model": {"onnx": "net.onnx"}}


class Following(SilentWatch):
    """Knows which steps were computed, and interrupts training in front of a step."""

    def __init__(self, interrupt: int | None = None) -> None:
        self.interrupt, self.trained = interrupt, 0
        self.done: list[str] = []

    @contextmanager
    def step(self, title: str, reused: bool, *_: Any, **__: Any) -> Iterator[Track]:
        if not reused:
            self.done.append(title)
        yield self._track

    def _track(self, items: Iterable[Any], *_: Any) -> Iterator[Any]:
        for item in items:
            if isinstance(items, range):
                if self.trained == self.interrupt:
                    raise KeyboardInterrupt
                self.trained += 1
            yield item


def make_bench(facts: dict[str, Any], folder: Path, out: str = "out", resume: bool = False, watch: Any = None) -> Bench:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(facts))
    bench = prepare(Job(Recipe.model_validate(facts), path, folder, folder / out, resume), watch or SilentWatch())
    bench.job.out.mkdir(exist_ok=True)
    return bench


def run(facts: dict[str, Any], folder: Path, *stages: dict[str, Any], **how: Any) -> Compressed:
    return compress(make_bench({**facts, "stages": stages} if stages else facts, folder, **how))


def widths(path: Path | onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of convolutions, by node."""
    model = onnx.load(path) if isinstance(path, Path) else path
    constants = initializers(model)
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            made = next((n for n in model.graph.node if n.output[0] == node.input[1]), None)
            found[node.name] = tuple(constants[made.input[0] if made else node.input[1]].dims)
    return found


HALF = {"/first/first.0/Conv": (8, 3, 3, 3), "/second/second.0/Conv": (16, 8, 3, 3), "/head/Conv": (10, 16, 1, 1)}
"""24 channels at a ratio of a half, in eights: 16 are as near to 12 as 8 are, and the wider is taken."""


# --- the chain


def test_a_network_is_trained_pruned_taught_by_itself_quantized_and_trained_again(cli, tmp_path, job):
    stages = [TRAIN, PRUNE, DISTILL, {"kind": "ptq"}, {"kind": "qat", "steps": 1, "batch_size": 2}]
    job["contract"]["accuracy"] = [{"metric": "pixel_accuracy", "max_drop": 1.0}]
    (tmp_path / "recipe.yaml").write_text(json.dumps({**job, "stages": stages}))

    code, _, complaint = cli("run", "recipe.yaml", "--out", "out")

    assert code == 0, complaint
    out = tmp_path / "out"
    assert widths(out / "model.onnx") == HALF
    report = json.loads((out / "report.json").read_text())
    told = {stage["name"]: stage["log"] for stage in report["stages"] if stage["log"]}
    assert list(told)[:4] == [
        "train, 2 steps",
        "prune (50 % of channels)",
        "distill, 2 steps",
        "quantize (PTQ, int8, mse ranges)",
    ]
    kept, fit = told["prune (50 % of channels)"]
    assert kept == "prune: keeps 24 of 40 channels that can go, 293,376 of 792,576 MACs, 1,566 of 4,182 parameters"
    assert re.match(r"prune: [12] layers? fitted to what they gave: ", fit)
    # What drops are measured against is the network before it was pruned.
    assert widths(out / "state" / "network" / "model.onnx")["/second/second.0/Conv"] == (24, 16, 3, 3)
    assert report["provenance"]["networks"]["float"] != report["provenance"]["networks"]["compressed"]


def test_a_file_is_pruned_and_stays_the_graph_that_it_is(tmp_path, file_job):
    made = run(file_job, tmp_path)

    before, after = onnx.load(tmp_path / "net.onnx").graph, onnx.load(made.network).graph
    assert [(n.op_type, n.name, list(n.output)) for n in after.node] == [
        (n.op_type, n.name, list(n.output)) for n in before.node
    ]
    assert widths(made.network) == HALF


def test_a_network_without_channels_of_its_own_has_normalization_folded_in_as_a_module_has(tmp_path, job):
    made = run(job, tmp_path)

    for path in (made.reference, made.network):
        assert {node.op_type for node in onnx.load(path).graph.node} == {"Conv", "Relu", "Resize"}


def test_the_smaller_network_is_what_the_masked_one_computes(tmp_path, job):
    """By another road: the reference, with zeros in its weights where channels are gone."""
    importance = {"function": "net_that_shrinks:twice_the_width", "import_from": "."}
    made = run(job, tmp_path, {**PRUNE, "fit": False, "importance": importance})

    model = onnx.load(made.reference)
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item).copy()
        if item.name.startswith(("first.0", "second.0")):
            values[
                : len(values)
                - HALF[f"/{item.name.replace('.0.', '/').split('/')[0]}/{item.name.split('.')[0]}.0/Conv"][0]
            ] = 0
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    x = np.random.default_rng(0).normal(size=(1, 3, *SIZE)).astype(np.float32)
    wanted, found = (_run(each, x) for each in (model, onnx.load(made.network)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    from engines.in_memory import open_model

    return open_model(model).run(None, {"images": x})[0]


@pytest.mark.parametrize("kind", ["job", "file_job"])
def test_normalization_is_trained_once_a_module_was_pruned_and_stays_in_a_file(request, tmp_path, kind):
    facts = request.getfixturevalue(kind)
    train = {**TRAIN, "loss": "cross_entropy"}
    run(facts, tmp_path, PRUNE, train)
    free = run(facts, tmp_path, PRUNE, {**train, "batch_norm": "reestimate"}, out="free")

    pruned = {i.name: numpy_helper.to_array(i) for i in load_pruned(tmp_path / "out").graph.initializer}
    moved = {}
    for out in ("out", "free"):
        state = load_weights(tmp_path / out / "state" / "1-train")
        names = [name for name in state if name.endswith("running_mean")]
        wanted = [pruned["first.1.running_mean"], pruned["second.1.running_mean"]]
        moved[out] = [
            not np.array_equal(state[n], w)
            for n, w in zip(sorted(names, key=lambda n: len(state[n])), wanted, strict=True)
        ]
    assert moved == {"out": [kind == "job"] * 2, "free": [True, True]}
    kept = onnx.load(free.network).graph
    assert ("BatchNormalization" in {node.op_type for node in kept.node}) == (kind == "file_job")


def load_pruned(out: Path) -> onnx.ModelProto:
    return load_structure(out / "state" / "0-prune")


def load_weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "weights.safetensors")


def test_itself_is_the_network_before_it_was_pruned(tmp_path, job):
    bench = make_bench(job, tmp_path)
    model = from_factory(bench, bench.recipe.model)
    dense = model.whole(model.artifact.model)
    run(job, tmp_path)
    pruned = smaller(model, Artifact(load_pruned(tmp_path / "out")), "key")
    x = torch.randn(2, 3, *SIZE)

    with torch.no_grad():
        wanted = model.artifact.model(x)
        torch.testing.assert_close(pruned.dense_self()(x), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(as_graph(pruned).dense_self()(x), wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(pruned.artifact.model(x), wanted, atol=1e-2)
    assert pruned.dense.SerializeToString() == dense.SerializeToString()


def test_a_module_that_was_pruned_has_its_own_loss_and_a_file_none(tmp_path, job, file_job):
    bench = make_bench(job, tmp_path)
    model = from_factory(bench, bench.recipe.model)
    graph = as_graph(model)
    network = onnx.load(tmp_path / "net.onnx")

    assert graph.own_loss is not None
    assert from_file(network, Artifact(network)).own_loss is None
    run(job, tmp_path, PRUNE, TRAIN)
    with pytest.raises(RecipeError, match=r"stages\[1\]\.loss: expected yolox, .* for an ONNX file, .* got nothing"):
        run(file_job, tmp_path, PRUNE, TRAIN)


# --- resuming


def test_rounds_of_pruning_and_recovery_go_on_inside_and_end_the_same(tmp_path, job):
    stages = ({**PRUNE, "schedule": "iterative", "rounds": 2, "recover": DISTILL}, {"kind": "ptq"})
    whole = run(job, tmp_path, *stages, out="whole")
    with pytest.raises(KeyboardInterrupt):
        run(job, tmp_path, *stages, watch=Following(3))

    again = Following()
    made = run(job, tmp_path, *stages, resume=True, watch=again)

    assert again.trained == 1
    assert again.done[:2] == ["distill, 2 steps", "keep the smaller network"]
    assert made.network.read_bytes() == whole.network.read_bytes()
    assert widths(made.network) == HALF
    third = Following()
    run(job, tmp_path, *stages, resume=True, watch=third)
    assert third.done == []


def test_another_recovery_prunes_nothing_anew_but_what_comes_after_it(tmp_path, job):
    stage = {**PRUNE, "schedule": "iterative", "rounds": 2, "recover": DISTILL}
    run(job, tmp_path, stage)

    again = Following()
    run(job, tmp_path, {**stage, "recover": {**DISTILL, "seed": 7}}, resume=True, watch=again)

    assert again.done == [
        "distill, 2 steps",
        "prune (50 % of channels)",
        "distill, 2 steps",
        "keep the smaller network",
    ]


def test_another_file_of_scores_prunes_anew(tmp_path, job):
    stage = {**PRUNE, "importance": {"file": "scores.json"}}
    (tmp_path / "scores.json").write_text(json.dumps({"/first/first.0/Conv": list(range(16))}))
    first = run(job, tmp_path, stage)
    before = initializers(onnx.load(first.reference))["first.0.weight"]
    kept = numpy_helper.to_array(before)[8:]
    found = numpy_helper.to_array(initializers(onnx.load(first.network))["first.0.weight"])
    np.testing.assert_allclose(found, kept, rtol=1e-5)
    (tmp_path / "scores.json").write_text(json.dumps({"/first/first.0/Conv": list(range(16, 0, -1))}))

    again = Following()
    run(job, tmp_path, stage, resume=True, watch=again)

    assert "prune (50 % of channels)" in again.done


# --- while the network trains


def test_channels_fade_while_the_network_trains_and_are_cut_out(tmp_path, job):
    recover = {**TRAIN, "steps": 10}
    made = run(
        job, tmp_path, {**PRUNE, "importance": "taylor", "schedule": "during_training", "rounds": 2, "recover": recover}
    )

    assert widths(made.network) == HALF
    masked = load_weights(tmp_path / "out" / "state" / "0-recover")
    weights = [value for value in masked.values() if value.shape == (16, 3, 3, 3)]
    assert [(value.reshape(16, -1) == 0).all(1).sum() for value in weights] == [8]


def test_layers_may_have_alignments_of_their_own(tmp_path, job):
    made = run(job, tmp_path, {**PRUNE, "align": {"/first*": 2, "/*": 12}})

    assert widths(made.network)["/head/Conv"] == (10, 12, 1, 1)
    assert widths(made.network)["/second/second.0/Conv"] == (12, 8, 3, 3)


def by_macs(network, coupling, engine, steps, track):
    """A table of a machine that counts: a millisecond for a thousand multiply-accumulates."""
    drawn = designs(coupling, steps)
    networks = [without(network, coupling, removed) for removed in drawn]
    layers = [{name: count / 1000 for name, count in macs(each).items()} for each in networks]
    return LatencyTable(
        structure_digest(network),
        tuple((group.name, len(group.channels)) for group in coupling.groups),
        engine.backend,
        "a machine that counts",
        {},
        tuple(
            Design(tuple(counts_of(coupling, removed).tolist()), found, 0.0, sum(found.values()))
            for removed, found in zip(drawn, layers, strict=True)
        ),
    )


def test_widths_for_a_latency_are_tried_and_the_prediction_learns(tmp_path, job, monkeypatch):
    """The machine is a fifth slower with a smaller network than its table says."""
    monkeypatch.setattr(measure, "measure_table", by_macs)
    monkeypatch.setattr(
        measure, "latencies_ms", lambda networks, _: [total_macs(networks[0]), 1.2 * total_macs(networks[1])]
    )
    stage = {"kind": "prune", "importance": "l2", "speedup": 1.6, "align": {"/second*": 4, "*": 2}}

    made = run(job, tmp_path, stage)

    goal = Pruning.model_validate_json((tmp_path / "out" / "state" / "0-prune" / "pruning.json").read_bytes()).goal
    first, last = goal.tries[0], goal.tries[-1]
    assert goal.goal_ms == pytest.approx(goal.before_ms / 1.6)
    assert first.measured_ms == pytest.approx(1.2 * first.predicted_ms, rel=0.03)
    assert last.measured_ms == pytest.approx(last.predicted_ms, rel=0.02)
    assert (goal.predicted_ms, goal.measured_ms) == (last.predicted_ms, last.measured_ms)
    assert goal.measured_ms <= 1.02 * goal.goal_ms
    assert widths(made.network)["/second/second.0/Conv"][0] % 4 == 0


# --- zeros that stay


REPAIRS = [
    {"kind": "equalize"},
    {"kind": "smooth", "layers": ["*"]},
    {"kind": "ptq", "keep_float": {"head": False}},
    {"kind": "correct_bias"},
    {"kind": "adaround", "steps": 20},
    {"kind": "reconstruct", "steps": 10},
    {"kind": "qat", "steps": 2, "batch_size": 2, "learning_rate": 1.0},
]


@pytest.mark.parametrize(("kind", "pattern"), [("job", "unstructured"), ("file_job", "2:4")])
def test_zeros_stay_through_training_quantization_and_its_repairs(request, tmp_path, kind, pattern):
    from avcompress.prune.sparsity import zero_masks

    facts = request.getfixturevalue(kind)
    stage = {"kind": "sparsify", "pattern": pattern, **({"sparsity": 0.6} if pattern == "unstructured" else {})}
    train = {**TRAIN, "loss": "cross_entropy", "learning_rate": 0.1}

    made = run(facts, tmp_path, stage, train, DISTILL, *REPAIRS)

    sparse = made.artifact.sparse
    assert set(sparse.values()) == {pattern}
    assert set(sparse) == {"second.0.weight", "head.weight"} | (
        {"first.0.weight"} if pattern == "unstructured" else set()
    )
    first, last = load_structure(tmp_path / "out" / "state" / "0-sparsify"), onnx.load(made.network)
    before, after = (zero_masks(model, sparse) for model in (first, last))
    for name, mask in before.items():
        assert not (after[name] & ~mask).any()
        assert mask.mean() == pytest.approx(0.4 if pattern == "unstructured" else 0.5, abs=0.01)
    assert not np.array_equal(
        initializers(first)["head.weight"].raw_data, initializers(onnx.load(made.counterpart))["head.weight"].raw_data
    )


@pytest.mark.parametrize("importance", ["magnitude", "gradient"])
def test_sparsity_grows_while_the_network_trains(tmp_path, job, importance):
    recover = {**DISTILL, "steps": 10}
    stage = {"kind": "sparsify", "sparsity": 0.8, "importance": importance, "schedule": "gradual", "recover": recover}

    made = run(job, tmp_path, stage, TRAIN)

    shares = {
        name: float((numpy_helper.to_array(initializers(onnx.load(made.network))[name]) == 0).mean())
        for name in made.artifact.sparse
    }
    assert shares == pytest.approx(dict.fromkeys(("first.0.weight", "second.0.weight", "head.weight"), 0.8), abs=0.01)
    assert made.artifact.log[-1].startswith("sparse: 80.0 % of 4,128 weights in 3 layers are zero")


def test_a_stage_that_loses_zeros_is_a_named_defect(tmp_path, job, monkeypatch):
    def careless(stage: Any, artifact: Artifact, batches: Any) -> Artifact:
        model = onnx.ModelProto()
        model.CopyFrom(artifact.model)
        item = initializers(model)["second.0.weight"]
        item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) + 1, item.name))
        return Artifact(model, log=artifact.log, sparse=artifact.sparse)

    monkeypatch.setattr(compressing, "apply", careless)
    stages = ({"kind": "sparsify", "sparsity": 0.5}, {"kind": "equalize"})

    with pytest.raises(
        ModelError, match=r"expected 0 at .* in 'second\.0\.weight', the weight of layer '/second/second\.0/Conv', got"
    ):
        run(job, tmp_path, *stages)
    assert not (tmp_path / "out" / "state" / "1-equalize").exists()


# --- the plain checkpoint


def test_what_was_made_smaller_is_saved_and_another_recipe_goes_on_with_it(tmp_path, job):
    first = run(job, tmp_path, PRUNE)
    saved = {**job, "model": {"structure": "out/smaller"}}
    train = {**TRAIN, "loss": "cross_entropy"}

    made = run(saved, tmp_path, train, out="trained")
    again = run(saved, tmp_path, {**PRUNE, "ratio": 0.3}, out="again")

    assert widths(made.network) == HALF
    assert {node.op_type for node in onnx.load(made.reference).graph.node} == {"Conv", "Relu", "Resize"}
    assert made.reference.read_bytes() != first.network.read_bytes()
    assert onnx.load(again.reference).graph.node == onnx.load(first.network).graph.node
    with pytest.raises(RecipeError, match=r"stages\[0\]\.loss: expected yolox, .* for an ONNX file"):
        run(saved, tmp_path, TRAIN, out="other")


def test_weights_of_another_structure_are_one_line(cli, tmp_path, job):
    run(job, tmp_path, PRUNE)
    run(job, tmp_path, {**PRUNE, "ratio": 0.6}, out="other")
    weights = tmp_path / "out" / "smaller" / "weights.safetensors"
    weights.write_bytes((tmp_path / "other" / "smaller" / "weights.safetensors").read_bytes())
    facts = {**job, "model": {"structure": "out/smaller"}, "stages": [{"kind": "ptq"}]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(facts))

    code, _, complaint = cli("run", "recipe.yaml", "--out", "new")

    assert code == 2
    assert "expected 'second.0.weight' as float32 16x8x3x3, got float32 8x8x3x3" in " ".join(complaint.split())


# --- what is refused


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            {**PRUNE, "align": 40},
            r"stages\[0\]\.align: expected at most the 24 channels of layer '/second/second\.0/Conv', got 40",
        ),
        (
            {**PRUNE, "align": {"/second*": 40}},
            r"stages\[0\]\.align: expected at most the 24 channels of layer '/second/second\.0/Conv', got 40",
        ),
        (
            {**PRUNE, "align": {"/third*": 4, "*": 8}},
            r"stages\[0\]\.align: expected names or patterns of layers, got '/third\*', which fits none",
        ),
        ({**PRUNE, "ratio": 0.95}, r"stages\[0\]: expected a floor of at most 0\.05, which the ratio of 0\.95 leaves"),
        (
            {**PRUNE, "layers": ["/third/*"]},
            r"stages\[0\]\.layers: expected a layer's name.* got '/third/\*', which fits none",
        ),
        ({**PRUNE, "exclude": ["*"]}, r"stages\[0\]: expected layers whose channels can be removed, got none"),
        ({"kind": "sparsify", "sparsity": 0.5, "exclude": ["none"]}, r"stages\[0\]\.exclude: expected a layer's name"),
        (
            {**PRUNE, "importance": {"file": "scores.json"}},
            r"stages\[0\]\.importance: expected finite scores of .*/second/second\.0/Conv.*, got nan",
        ),
    ],
)
def test_what_a_network_cannot_do_without_is_one_line(cli, tmp_path, job, stage, message):
    (tmp_path / "scores.json").write_text(json.dumps({"/second/second.0/Conv": [float("nan")] * 24}))
    (tmp_path / "recipe.yaml").write_text(json.dumps({**job, "stages": [stage]}))

    code, _, complaint = cli("run", "recipe.yaml", "--out", "out")

    assert code == 2
    assert re.search(message, " ".join(complaint.split())), complaint
    assert not (tmp_path / "out" / "state" / "0-prune").exists()


def test_too_few_images_to_fit_layers_to_are_one_line(cli, tmp_path, job):
    job["data"]["train"]["count"] = 3
    (tmp_path / "recipe.yaml").write_text(json.dumps(job))

    code, _, complaint = cli("run", "recipe.yaml", "--out", "out")

    assert code == 2
    assert "stages[0]: expected 4 images at least to fit layers to, got 3; give more" in " ".join(complaint.split())


def test_a_network_that_decides_by_the_image_is_refused_with_its_line(cli, tmp_path, job):
    code = CODE.replace("return nn.functional.interpolate(", "return x if x.mean() > 0 else nn.functional.interpolate(")
    (tmp_path / "net_that_shrinks.py").write_text(code)
    (tmp_path / "recipe.yaml").write_text(json.dumps(job))

    exit_code, _, complaint = cli("run", "recipe.yaml", "--out", "out")

    assert exit_code == 2
    assert re.search(r"got a decision by values at .*net_that_shrinks\.py:\d+", " ".join(complaint.split()))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"kind": "ptq"}, PRUNE], r"stages\[1\]: expected `prune` before `ptq`, got it after; order them: train"),
        (
            [{"kind": "sparsify", "sparsity": 0.5}, PRUNE],
            r"stages\[1\]: expected `prune` before `sparsify`, got it after, where it would change the shapes",
        ),
        (
            [{"kind": "prune", "speedup": 1.5, "backend": "openvino"}],
            r"stages\[0\]\.backend: expected openvino among target\.engines, one that runs here, got ort",
        ),
        (
            [{**PRUNE, "importance": {"file": "gone.json"}}],
            r"stages\[0\]\.importance\.file: expected a file, got nothing",
        ),
        ([DISTILL, PRUNE], r"stages\[0\]\.teacher: expected another network, got self"),
        (
            [{**PRUNE, "schedule": "iterative", "recover": {**TRAIN, "loss": "yolox"}}],
            r"stages\[0\]\.recover\.loss: expected one that fits the task, segmentation, got yolox",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused_before_the_work(tmp_path, job, stages, message):
    with pytest.raises(RecipeError, match=message):
        run(job, tmp_path, *stages)
    assert not (tmp_path / "out").exists()


def test_rounds_without_training_measure_importance_anew_on_what_is_fitted(tmp_path, job):
    stage = {**PRUNE, "importance": "taylor", "schedule": "iterative", "rounds": 2}

    made = run(job, tmp_path, stage)

    assert widths(made.network) == HALF
    logs = [line for line in made.artifact.log if line.startswith("prune: ")]
    assert [line.split()[1] for line in logs] == ["keeps", logs[1].split()[1], "keeps", logs[3].split()[1]]
    assert all("fitted" in line or "no layer could be fitted" in line for line in logs[1::2])
