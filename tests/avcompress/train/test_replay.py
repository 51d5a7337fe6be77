"""Batches of old and new samples: the share is exact in every part of a step, and the order the same each time."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.recipe import Preprocess, SceneSource
from avcompress.recipe_training import Train
from avcompress.spec import RecipeError
from avcompress.train import Turn, load, replaying
from avcompress.train.replay import old_places, replay_order
from calibration.scenes import open_scenes

HALF = Fraction(1, 2)
PREPROCESS = Preprocess(size=(32, 32), fit="stretch")


def scenes(count: int, seed: int, labels: str = "boxes"):
    settings = {"format": "scenes", "count": count, "size": (32, 32), "seed": seed, "labels": labels}
    return load(open_scenes(SceneSource.model_validate(settings)), PREPROCESS)


def plan(**changes: object) -> Train:
    facts = {"kind": "train", "steps": 4, "batch_size": 4, "augment": {"mirror": 0, "brightness": 0}}
    return Train.model_validate(facts | changes)


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 2, 3]), st.integers(0, 3),
    st.integers(1, 3), st.integers(0, 5),
)  # fmt: skip
def test_every_part_of_every_step_holds_its_exact_share_whatever_the_parts(old, new, steps, parts, k, more, seed):
    share = Fraction(k, k + more)
    settings = plan(steps=steps, batch_size=6 * share.denominator, accumulate=parts, seed=seed)

    order = replay_order(old, new, settings, share)

    assert order.shape == (steps, settings.batch_size)
    assert ((order >= 0) & (order < old + new)).all()
    for step in range(steps):
        for part in range(parts):
            indices = order[step][Turn(step, part, parts).share(settings.batch_size)]
            assert ((indices < old) == old_places(len(indices), share)).all()
            assert (indices < old).sum() == share * len(indices)
    assert (order == replay_order(old, new, settings.model_copy(update={"accumulate": 1}), share)).all()


def test_of_either_sort_every_sample_comes_once_before_any_comes_again_and_not_in_step_with_the_other():
    order = replay_order(6, 6, plan(steps=6, batch_size=4), HALF)
    old, new = order[:, ::2].ravel(), order[:, 1::2].ravel() - 6

    assert [sorted(each.tolist()) for each in (old[:6], old[6:], new[:6], new[6:])] == [[0, 1, 2, 3, 4, 5]] * 4
    assert (old != new).any()


def test_batches_hold_old_images_and_new_ones_with_their_own_labels():
    old, new = scenes(3, seed=0), scenes(5, seed=1, labels="masks")
    batches = replaying(old, new, plan(), Fraction(1, 4))

    inputs, samples = batches(Turn(2))

    assert inputs.shape == (4, 3, 32, 32)
    assert [sample.mask is None for sample in samples] == [True, False, False, False]
    assert samples[0].image.tobytes() in {old.pictures[i].image.tobytes() for i in range(3)}
    assert all(s.image.tobytes() in {new.pictures[i].image.tobytes() for i in range(5)} for s in samples[1:])
    assert batches.names(2) == tuple(sample.name for sample in samples)
    assert len(batches.dataset.pictures) == 8


def test_epochs_count_the_new_images():
    batches = replaying(scenes(3, seed=0), scenes(8, seed=1), plan(steps=None, epochs=3), HALF)

    new = batches.order[batches.order >= 3]
    assert np.bincount(new - 3).tolist() == [3] * 8


def test_what_is_looked_at_for_a_start_is_of_both_sorts():
    old, new = scenes(6, seed=0), scenes(1, seed=1)

    found = replaying(old, new, plan(), HALF).some(8)

    expected = np.stack([p.image.transpose(2, 0, 1) for p in (*(old.pictures[i] for i in range(4)), new.pictures[0])])
    assert found.numpy().tolist() == expected.astype(np.float32).tolist()


def test_without_a_share_all_is_new_and_a_share_of_images_is_refused():
    assert (replay_order(3, 5, plan(), Fraction(0)) >= 3).all()
    with pytest.raises(RecipeError, match=r"replay.share: expected whole images of each of 2 parts of a batch of 4"):
        replay_order(3, 5, plan(accumulate=2), Fraction(1, 4))


def test_old_places_are_spread_so_that_parts_hold_their_share():
    assert old_places(6, Fraction(2, 3)).tolist() == [True, True, False] * 2
    assert old_places(4, Fraction(0)).tolist() == [False] * 4
