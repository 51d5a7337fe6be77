"""The training loop: it learns, it repeats itself, and it says what went wrong."""

import copy
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from avcompress.models import detector, segmenter
from avcompress.recipe import Preprocess, SceneSource, Train
from avcompress.spec import Artifact, DataError, ModelError
from avcompress.train import average_, batch_order, load, mirror, rate, run_steps, train
from calibration.preprocess import preprocess
from calibration.sample import Boxes, Sample
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


def box_sample(width: int = 10) -> Sample:
    boxes = Boxes(np.array([[1, 2, 4, 6]], np.float32), np.array([0]), np.array([False]), np.array([12.0]))
    mask = np.tile(np.arange(width, dtype=np.uint8), (8, 1))
    image = np.repeat(mask[..., None], 3, axis=2)
    return Sample("s", image, boxes, mask)


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

    train(Artifact(Line()), plan(steps=3), scenes("masks", count=5), PREPROCESS, track)

    assert seen == [(5, 5), (3, 3)]


# --- what goes wrong


def test_a_module_without_a_loss_is_told_what_to_add():
    with pytest.raises(ModelError, match=r"Conv2d: .*targets\(samples\).* got no targets and no loss"):
        train(Artifact(nn.Conv2d(3, 3, 1)), plan(), scenes("boxes"), PREPROCESS)


def test_a_loss_that_is_not_a_number_names_the_step():
    with pytest.raises(ModelError, match="nan at step 1;"):
        train(Artifact(Diverging()), plan(learning_rate=0.1), scenes("masks"), PREPROCESS)


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

    averaged, final = run_steps(
        module, plan(steps=300, learning_rate=0.1, weight_decay=0), lambda _: (module.a - wanted).square()
    )

    assert module.a.item() == pytest.approx(2, abs=1e-3)
    assert averaged.a.item() == pytest.approx(2, abs=0.02)
    assert final < 1e-4


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


# --- the data


def test_every_sample_comes_once_before_any_comes_again():
    order = batch_order(6, plan(steps=3, batch_size=4)).ravel().tolist()

    assert sorted(order[:6]) == sorted(order[6:]) == [0, 1, 2, 3, 4, 5]


def test_an_unchanged_picture_enters_training_as_it_enters_the_network():
    source = scenes("boxes", count=1)
    dataset = load(source, PREPROCESS)

    class Never:
        def random(self) -> float:
            return 1.0

        def uniform(self, *_: float) -> float:
            return 1.0

    inputs, batch = dataset.batch([0], Never())

    assert (inputs.numpy() == preprocess(source[0].image, PREPROCESS)[0]).all()
    assert (batch[0].image[..., ::-1] == source[0].image).all()


def test_labels_move_with_the_picture_into_the_network_s_input():
    sample = box_sample()
    doubled = PREPROCESS.model_copy(update={"size": (16, 20)})

    class One(list):
        pass

    moved = load(One([sample]), doubled).pictures[0]

    assert moved.image.shape == (16, 20, 3)
    assert moved.boxes.xyxy.tolist() == [[2, 4, 8, 12]]
    assert moved.mask.shape == (16, 20)


def test_mirroring_by_hand_and_twice_is_nothing():
    sample = box_sample()

    mirrored = mirror(sample)
    back = mirror(mirrored)

    assert mirrored.boxes.xyxy.tolist() == [[6, 2, 9, 6]]
    assert mirrored.mask[0].tolist() == list(range(10))[::-1]
    assert (back.boxes.xyxy == sample.boxes.xyxy).all()
    assert (back.image == sample.image).all()
