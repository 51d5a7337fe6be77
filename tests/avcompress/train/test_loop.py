"""The training loop: it learns, it repeats itself, and it says what went wrong."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from avcompress.models import detector, segmenter
from avcompress.recipe import Preprocess, SceneSource, Train
from avcompress.spec import Artifact, DataError, ModelError
from avcompress.train import Around, TaskLoss, average_, load, rate, run_steps, train
from avcompress.train.recovery import in_float32, moved
from calibration.sample import Sample
from calibration.scenes import open_scenes


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads that wait for each other on a busy machine take many times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PREPROCESS = Preprocess(size=(64, 96), fit="stretch", scale=1 / 255, mean=(10.0, 20.0, 30.0), channels="bgr")


def scenes(labels: str, count: int = 6):
    return open_scenes(
        SceneSource.model_validate({"format": "scenes", "count": count, "size": (64, 96), "labels": labels})
    )


def plan(**changes: object) -> Train:
    return Train.model_validate({"kind": "train", "steps": 4, "batch_size": 4, **changes})


class Line(nn.Module):
    """y = a x, fitted to the picture's mean."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(start))

    def forward(self, images):
        return self.a * images.mean(dim=(1, 2, 3))

    def targets(self, samples):
        return torch.tensor([3.0 * sample.image.mean() for sample in samples])

    def loss(self, outputs, targets):
        return (outputs - targets).square().mean()


class Diverging(Line):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets) if self.a == 0 else torch.tensor(float("nan"), requires_grad=True)


# --- learning


@pytest.mark.parametrize(
    ("factory", "labels", "classes"), [(detector, "boxes", 6), (segmenter, "masks", 10)], ids=["detector", "segmenter"]
)
def test_a_few_steps_lower_the_loss_and_leave_the_given_module_alone(factory, labels, classes):
    module = factory(num_classes=classes, width=8)
    before = copy.deepcopy(module.state_dict())
    source = scenes(labels)

    def final(steps: int) -> float:
        trained = train(Artifact(module), plan(steps=steps), source, PREPROCESS)
        assert not trained.model.training
        return float(trained.log[-1].split("loss ")[1].split(",")[0])

    first, last = final(1), final(60)

    assert last < 0.9 * first
    assert all((module.state_dict()[name] == value).all() for name, value in before.items())


@pytest.mark.parametrize(("factory", "labels", "classes"), [(detector, "boxes", 6), (segmenter, "masks", 10)])
def test_the_loss_is_computed_in_float32_whatever_the_network_is(factory, labels, classes):
    losses: dict[str, list[float]] = {"float32": [], "bf16": []}
    for precision, found in losses.items():
        around = Around(log=lambda _, values, found=found: found.append(values["loss"]))
        train(Artifact(factory(classes, 8)), plan(precision=precision), scenes(labels), PREPROCESS, around)

    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bf16"] != losses["float32"]


def test_labels_go_where_the_outputs_are_whatever_they_lie_in():
    @dataclass(frozen=True)
    class Targets:
        a: torch.Tensor
        rest: tuple[object, ...]

    found = moved(Targets(torch.ones(1), ({"b": torch.ones(2)}, [torch.ones(3)], "text")), torch.device("meta"))

    assert (found.a.device.type, found.rest[0]["b"].device.type, found.rest[1][0].device.type) == ("meta",) * 3
    assert found.rest[2] == "text"


def test_the_same_seed_gives_the_same_weights_and_another_one_gives_others():
    module, source = detector(num_classes=6, width=8), scenes("boxes")
    torch.manual_seed(1)
    first = train(Artifact(module), plan(), source, PREPROCESS).model.state_dict()
    torch.manual_seed(2)
    again = train(Artifact(module), plan(), source, PREPROCESS).model.state_dict()
    other = train(Artifact(module), plan(seed=1), source, PREPROCESS).model.state_dict()

    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_the_log_grows_by_one_line_and_nothing_else_changes():
    artifact = Artifact(Line(), log=("loaded",))

    trained = train(artifact, plan(), scenes("masks"), PREPROCESS)

    assert trained.log[0] == "loaded"
    assert len(trained.log) == 2
    assert "4 steps of 4 from 6 samples" in trained.log[1]


def test_rendering_and_steps_are_both_watched():
    seen: list[tuple[int, int | None]] = []

    def track(items: Iterable, total: int | None = None) -> Iterable:
        listed = list(items)
        seen.append((len(listed), total))
        return listed

    train(Artifact(Line()), plan(steps=3), scenes("masks", count=5), PREPROCESS, Around(track=track))

    assert seen == [(5, 5), (3, 3)]


# --- what goes wrong


def test_a_module_without_a_loss_is_told_what_to_add():
    with pytest.raises(ModelError, match=r"Conv2d: .*targets\(samples\).* got no targets and no loss"):
        train(Artifact(nn.Conv2d(3, 3, 1)), plan(), scenes("boxes"), PREPROCESS)


def test_a_loss_that_is_not_a_number_names_the_step():
    with pytest.raises(
        ModelError, match=r"finite loss, got nan at step 1 \(scene_0_\d+, .*\); lower the learning rate"
    ):
        train(Artifact(Diverging()), plan(learning_rate=0.1), scenes("masks"), PREPROCESS)


def test_a_loss_that_raises_over_outputs_that_are_no_numbers_names_the_step_and_any_other_error_stays():
    def entropy(outputs, _):
        return F.binary_cross_entropy(outputs.sigmoid(), torch.ones_like(outputs))  # raises for NaN

    def broken(_outputs, _samples):
        raise ValueError("no such class")

    with pytest.raises(ModelError, match=r"train: expected a finite loss, got nan at step 0 \(scene_0_\d+, "):
        train(Artifact(Line(math.nan)), plan(), scenes("boxes"), PREPROCESS, loss=TaskLoss(in_float32(entropy)))
    with pytest.raises(ModelError, match="ValueError: no such class"):
        train(Artifact(Line()), plan(), scenes("boxes"), PREPROCESS, loss=TaskLoss(in_float32(broken)))


def test_samples_without_labels_and_no_samples_are_errors():
    class Bare(list):
        pass

    with pytest.raises(DataError, match="plain: expected boxes or a mask"):
        load(Bare([Sample("plain", np.zeros((4, 4, 3), np.uint8))]), PREPROCESS)
    with pytest.raises(DataError, match="expected samples to learn from"):
        load(Bare(), PREPROCESS)


# --- the loop by hand


def test_the_loop_finds_the_minimum_of_a_parabola():
    module = Line()
    wanted = torch.tensor(2.0)

    trained = run_steps(
        module, plan(steps=300, learning_rate=0.1, weight_decay=0), lambda _: (module.a - wanted).square()
    )

    assert module.a.item() == pytest.approx(2, abs=1e-3)
    assert trained.module.a.item() == pytest.approx(2, abs=0.02)
    assert (trained.loss < 1e-4, trained.steps, trained.metric) == (True, 300, None)


def test_the_first_step_of_adamw_by_hand():
    module = Line()

    run_steps(module, plan(steps=1, learning_rate=0.1, weight_decay=0), lambda _: 3 * module.a)

    # Whatever the gradient, the first step has the length of the learning rate.
    assert module.a.item() == pytest.approx(-0.1, rel=1e-4)


def test_the_learning_rate_rises_and_then_falls_along_a_cosine():
    rates = [rate(step, 100) for step in range(100)]

    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1
    assert rates[5 + 47] == pytest.approx(0.5 * 1.02, abs=0.02)
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert 0 < rates[-1] < 0.03


def test_averaging_moves_part_of_the_way_and_copies_counters():
    averaged, module = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    module.weight.data.fill_(3.0)
    module.num_batches_tracked.fill_(7)

    average_(averaged, module, keep=0.75)

    assert averaged.weight.item() == pytest.approx(0.75 * 1 + 0.25 * 3)
    assert averaged.num_batches_tracked.item() == 7


def test_the_first_steps_of_momentum_by_hand():
    module = Line()
    settings = plan(steps=2, optimizer="sgd", learning_rate=0.1, momentum=0.5, schedule="constant", clip=None, ema=0)

    trained = run_steps(module, settings, lambda _: 3 * module.a)

    # 0.1 * 3, then 0.1 * (0.5 * 3 + 3).
    assert module.a.item() == pytest.approx(-0.3 - 0.45)
    assert trained.module.a.item() == module.a.item()


def test_a_constant_schedule_rises_and_stays():
    assert [rate(step, 10, 0.3, cosine=False) for step in range(5)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])


def test_the_gradient_is_cut_to_the_largest_norm():
    module = Line()
    settings = plan(steps=1, optimizer="sgd", learning_rate=1.0, clip=2.0, momentum=0)

    run_steps(module, settings, lambda _: 50 * module.a)

    assert module.a.item() == pytest.approx(-2, rel=1e-5)


class Small(nn.Sequential):
    """A convolution with batch normalization and a classifier."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))


def small() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small()


INPUTS = torch.randn(40, 8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
CLASSES = torch.randint(3, (40, 8), generator=torch.Generator().manual_seed(2))


def classify(module, turn):
    part = turn.share(8)
    return F.cross_entropy(module(INPUTS[turn.step][part]), CLASSES[turn.step][part])


def fit(around=None, **changes):
    module = small()
    return module, run_steps(module, plan(batch_size=8, **changes), lambda turn: classify(module, turn), around)


def test_gradients_that_are_accumulated_are_those_of_the_whole_batch():
    whole, _ = fit(steps=5, batch_norm="frozen")
    parts, _ = fit(steps=5, batch_norm="frozen", accumulate=4)

    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_frozen_normalization_keeps_its_statistics_and_trains_its_scale():
    before, (frozen, _), (moved, _) = small(), fit(steps=3, batch_norm="frozen"), fit(steps=3)

    assert (frozen[1].running_mean == before[1].running_mean).all()
    assert (frozen[1].weight != before[1].weight).any()
    assert (moved[1].running_mean != before[1].running_mean).any()


def test_reestimated_statistics_are_those_of_the_averaged_weights():
    _, trained = fit(Around(inputs=lambda turn: INPUTS[turn.step]), steps=10, batch_norm="reestimate")

    with torch.no_grad():
        convolved = torch.stack([trained.module[0](batch) for batch in INPUTS[:10]])
    means = convolved.mean(dim=(0, 1, 3, 4))
    torch.testing.assert_close(trained.module[1].running_mean, means, rtol=1e-4, atol=1e-5)
    assert not trained.module[1].training


def test_bfloat16_leaves_weights_in_float32_and_learns():
    losses = []
    module, _ = fit(Around(log=lambda _, values: losses.append(values["loss"])), steps=20, precision="bf16")

    exact = []
    fit(Around(log=lambda _, values: exact.append(values["loss"])), steps=20)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)


def test_half_precision_on_a_cpu_and_a_length_given_twice_are_refused():
    with pytest.raises(ValueError, match="expected precision float32 or bf16 on a CPU, got fp16"):
        plan(precision="fp16")
    with pytest.raises(ValueError, match="expected steps or epochs, got both"):
        plan(epochs=3)
    with pytest.raises(ValueError, match="expected a batch_size in 3 equal parts"):
        plan(accumulate=3)


def test_epochs_count_images():
    assert plan(steps=None, epochs=2.5, batch_size=4).count_steps(16) == 10


def test_training_stops_when_nothing_gets_better_and_returns_the_best():
    metrics = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    seen = []

    def judge(module):
        assert not module.training
        seen.append(module[4].weight.clone())
        torch.rand(1)  # must not change what follows
        return next(metrics)

    _, trained = fit(Around(judge=judge), steps=40, validate_every=3, patience=2)

    assert (trained.metric, trained.steps, len(seen)) == (0.5, 12, 4)
    assert torch.equal(trained.module[4].weight, seen[1])


def test_a_measurement_changes_nothing_in_what_is_trained():
    measured, _ = fit(Around(judge=lambda _: float(torch.rand(1))), steps=10, validate_every=2, patience=99)
    other, _ = fit(steps=10)

    assert all(torch.equal(a, b) for a, b in zip(measured.parameters(), other.parameters(), strict=True))


def test_a_group_of_parameters_may_learn_at_another_rate():
    module = nn.ParameterDict({"slow": nn.Parameter(torch.zeros(())), "fast": nn.Parameter(torch.zeros(()))})
    settings = plan(steps=1, optimizer="sgd", learning_rate=1.0, momentum=0)

    def groups(module, _decay):
        return [{"params": [module["slow"]], "factor": 0.1}, {"params": [module["fast"]]}]

    run_steps(module, settings, lambda _: module["slow"] + module["fast"], Around(groups=groups))

    assert (module["slow"].item(), module["fast"].item()) == pytest.approx((-0.1, -1))


def test_a_gradient_that_is_not_finite_stops_the_training():
    module = Line(1.0)

    with pytest.raises(ModelError, match=r"train: expected a finite gradient, got .* at step 0; lower"):
        run_steps(module, plan(), lambda _: (module.a - 1).abs().sqrt())


def test_a_last_step_that_leaves_no_numbers_is_told_and_returns_nothing():
    module = Line(1.0)

    with pytest.raises(ModelError, match=r"expected a finite value of every weight, got .* at step 0; lower"):
        run_steps(module, plan(steps=1, clip=None), lambda _: (module.a - 1).abs().sqrt())


def test_relative_rates_change_small_and_large_weights_by_the_same_share():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.small, self.large = nn.Parameter(torch.full((2, 2), 0.01)), nn.Parameter(torch.full((2, 2), 10.0))
            self.zero = nn.Parameter(torch.zeros(2))

    module = Two()
    settings = plan(steps=1, learning_rate=0.1, weight_decay=0, rates="relative", ema=0, clip=None)

    run_steps(module, settings, lambda _turn: module.small.sum() + module.large.sum() + module.zero.sum())

    assert module.small.detach().flatten().tolist() == pytest.approx([0.009] * 4)
    assert module.large.detach().flatten().tolist() == pytest.approx([9.0] * 4)
    assert module.zero.tolist() == pytest.approx([-0.1] * 2)
