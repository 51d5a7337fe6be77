"""A student between two teachers: each sort of image has its own, and counts by its share."""

import copy
from fractions import Fraction

import pytest
import torch

from avcompress.distill import Replayed, Subject, distillation
from avcompress.recipe_distill import Teaching
from avcompress.train import average_

SOFT = Teaching.model_validate({"losses": [{"kind": "soft", "temperature": 1.0}]})
FEATURES = Teaching.model_validate({"losses": [{"kind": "features", "taps": ["act"]}]})


@pytest.fixture
def pair(net, images):
    """A student, the teacher of old images, and that of new ones."""
    student, before, better = net(seed=1), net(seed=2), net(seed=3, width=8)

    def make(share: Fraction) -> Replayed:
        return Replayed(
            distillation(student, before, SOFT, images(1)), distillation(student, better, FEATURES, images(1)), share
        )

    return make


def test_old_images_learn_from_one_teacher_and_new_ones_from_the_other_each_by_its_share(pair, images):
    learner, inputs = pair(Fraction(1, 4)), images(4)
    old, new = learner.lessons

    expected = 0.25 * old.loss(inputs[:1]) + 0.75 * new.loss(inputs[1:])

    assert torch.equal(learner.loss(inputs), expected)
    assert torch.equal(pair(Fraction(0)).loss(inputs), pair(Fraction(0)).lessons[1].loss(inputs))


def test_the_targets_of_each_sort_go_with_its_images(net, images):
    labels = Teaching.model_validate({"losses": [{"kind": "labels"}]})
    student = net(seed=1)
    seen = []

    def label_loss(outputs, targets):
        seen.append(list(targets))
        return outputs.mean()

    each = (distillation(student, net(seed=seed), labels, images(1), Subject(None, label_loss)) for seed in (2, 3))
    Replayed(*each, Fraction(1, 2)).loss(images(4), "abcd")

    assert seen == [["b", "d"], ["a", "c"]]


def test_what_is_trained_is_in_the_state_once_the_student_and_what_goes_along(pair):
    learner = pair(Fraction(1, 2))
    names = [name.partition(".")[0] for name in learner.state_dict()]
    averaged = copy.deepcopy(learner)

    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(1.0)
    before = averaged.student.head.bias.clone()
    average_(averaged, learner, keep=0.5)

    assert set(names) == {"student", "trained_along"}
    assert len(list(learner.parameters())) > len(list(learner.student.parameters()))
    assert torch.allclose(averaged.student.head.bias, before + 0.5)  # once, not once for each teacher
    assert averaged.lessons[0].student is averaged.student
