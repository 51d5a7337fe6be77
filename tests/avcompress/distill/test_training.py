"""Distillation on the training loop: of torch modules and of ONNX networks, with labels and without."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
import torch

from avcompress.distill import Guidance, distill, float_module, generate, stored_statistics
from avcompress.onnx_import import import_onnx
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import KeepFloat, Preprocess, Ptq
from avcompress.recipe_distill import Distill, Generation
from avcompress.spec import Artifact, DataError
from avcompress.train import Around, TaskLoss
from calibration.sample import Sample
from engines.onnx_graph import initializers

PREPROCESS = Preprocess(size=(16, 16), fit="stretch", mean=(128.0,) * 3, std=(64.0,) * 3)


@dataclass(frozen=True)
class Pictures:
    """Samples that are at hand."""

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sample.name for sample in self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self):
        return iter(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def pictures(count: int = 8, masks: bool = False) -> Pictures:
    rng = np.random.default_rng(0)
    mask = np.zeros((16, 16), np.uint8) if masks else None
    return Pictures(
        tuple(Sample(f"{i}", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), None, mask) for i in range(count))
    )


def plan(*losses: dict, steps: int = 40, **changes: object) -> Distill:
    settings = {"kind": "distill", "steps": steps, "batch_size": 4, "learning_rate": 1e-2, "losses": losses}
    return Distill.model_validate(settings | changes)


def difference(student, teacher) -> float:
    inputs = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return (student(inputs) - teacher(inputs)).square().mean().item()


def test_a_module_learns_from_unlabelled_pictures_and_the_given_one_stays(net):
    student, teacher = net(seed=1).eval(), net(seed=2).eval()
    before = copy.deepcopy(student.state_dict())

    trained = distill(
        Artifact(student, log=("pruned",)),
        plan({"kind": "features", "taps": ["head"], "standardize": False}),
        pictures(),
        PREPROCESS,
        Guidance(teacher),
    )

    assert difference(trained.model, teacher) < 0.5 * difference(student, teacher)
    assert not trained.model.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert trained.log[0] == "pruned"
    assert trained.log[1].startswith("distill: 40 steps of 4 from 8 samples, loss 0.")


def test_the_same_seed_gives_the_same_weights_masks_and_all(net):
    def trained(seed: int):
        losses = ({"kind": "mgd", "taps": ["act"]},)
        settings, guidance = plan(*losses, steps=3, seed=seed), Guidance(net(width=5, seed=2))
        torch.manual_seed(seed + 7)
        return distill(Artifact(net(seed=1)), settings, pictures(), PREPROCESS, guidance).model.first.weight

    with torch.random.fork_rng(devices=()):
        first, again, other = trained(0), trained(0), trained(1)

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_labels_are_needed_only_by_losses_that_say_so(net):
    artifact, guidance = Artifact(net(seed=1)), Guidance(net(seed=2))
    asks = plan({"kind": "soft", "alpha": 0.5}, steps=2)

    with pytest.raises(DataError, match="expected boxes or a mask to learn from, got neither"):
        distill(artifact, asks, pictures(), PREPROCESS, guidance)

    seen = []
    loss = TaskLoss(lambda outputs, samples: seen.extend(s.mask for s in samples) or outputs.square().mean())
    distill(artifact, asks, pictures(masks=True), PREPROCESS, replace(guidance, loss=loss))
    assert all(mask.shape == (16, 16) for mask in seen)
    assert len(seen) == 2 * 4
    distill(artifact, asks, pictures(masks=True), PREPROCESS, guidance)  # by the module's own


def test_an_onnx_network_keeps_its_graph_and_gets_new_weights(small_onnx):
    teacher = import_onnx(small_onnx)
    worse = copy.deepcopy(small_onnx)
    for item in worse.graph.initializer:
        if item.name in {"wb", "wy"}:
            values = onnx.numpy_helper.to_array(item)
            item.CopyFrom(onnx.numpy_helper.from_array(values * 0.5, item.name))

    trained = distill(
        Artifact(worse),
        plan({"kind": "features", "taps": ["b"]}, {"kind": "features", "taps": ["y"], "standardize": False}),
        pictures(),
        PREPROCESS,
        Guidance(teacher),
    ).model

    assert [node.name for node in trained.graph.node] == [node.name for node in small_onnx.graph.node]
    assert initializers(trained).keys() == initializers(worse).keys()
    assert difference(import_onnx(trained), teacher) < 0.5 * difference(import_onnx(worse), teacher)


@pytest.mark.parametrize(("batch_norm", "moves"), [(None, False), ("frozen", False), ("train", True)])
def test_normalization_of_an_onnx_network_learns_statistics_where_it_is_told_to(small_onnx, batch_norm, moves):
    settings = plan({"kind": "features", "taps": ["y"]}, steps=2, batch_norm=batch_norm)

    trained = distill(Artifact(small_onnx), settings, pictures(), PREPROCESS, Guidance(import_onnx(small_onnx))).model

    means = [onnx.numpy_helper.to_array(initializers(model)["mean"]) for model in (small_onnx, trained)]
    assert np.array_equal(*means) != moves


def test_a_quantized_network_learns_from_its_float_self(small_onnx):
    batches = [{"x": np.random.default_rng(i).standard_normal((1, 3, 16, 16)).astype(np.float32)} for i in range(4)]
    quantized = quantize(Artifact(small_onnx), Ptq(kind="ptq", keep_float=KeepFloat(head=False)), batches)
    coarse = replace(quantized, model=copy.deepcopy(quantized.model))
    for item in coarse.model.graph.initializer:  # weights that rounding has spoilt
        if item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 4:
            values = onnx.numpy_helper.to_array(item) // 16 * 16
            item.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.int8), item.name))
    teacher = float_module(quantized)
    losses = ({"kind": "features", "taps": ["b", "y"], "standardize": False},)

    trained = distill(coarse, plan(*losses, learning_rate=3e-3), pictures(), PREPROCESS, Guidance(teacher))

    assert trained.reference is quantized.reference
    assert difference(import_onnx(trained.model), teacher) < 0.7 * difference(import_onnx(coarse.model), teacher)


def test_pictures_made_from_statistics_teach_as_unlabelled_ones_do(net):
    student, teacher = net(seed=1).eval(), net(seed=2).eval()
    made = generate(teacher, stored_statistics(teacher), Generation(count=8, steps=20), PREPROCESS)

    trained = distill(
        Artifact(student),
        plan({"kind": "features", "taps": ["head"], "standardize": False}),
        Pictures(tuple(made)),
        PREPROCESS,
        Guidance(teacher),
    )

    assert difference(trained.model, teacher) < 0.7 * difference(student, teacher)


def test_a_pruned_student_learns_through_adapters_which_it_does_not_keep(net):
    student, teacher = net(width=3, seed=1), net(width=6, seed=2)
    losses = ({"kind": "features", "taps": ["act"]}, {"kind": "cwd"})

    trained = distill(Artifact(student), plan(*losses, steps=3), pictures(), PREPROCESS, Guidance(teacher)).model

    assert trained.state_dict().keys() == student.state_dict().keys()


def test_the_student_is_judged_and_its_normalization_estimated_anew(net):
    judged = []

    def judge(module):
        judged.append(type(module))
        return float(len(judged))

    settings = plan({"kind": "mutual"}, steps=4, validate_every=2, batch_norm="reestimate")
    peer = net(seed=2)

    trained = distill(Artifact(net(seed=1)), settings, pictures(), PREPROCESS, Guidance(peer), Around(judge=judge))

    assert judged == [net, net]
    assert "best metric 2.0000" in trained.log[-1]
    assert trained.model.norm.running_var.min() > 0
    assert peer.norm.running_var.min() > 0
