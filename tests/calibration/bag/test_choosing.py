import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from calibration.bag.choosing import allot, choose, cluster, spread


def test_every_group_gives_one_first_the_largest_before_the_others_then_by_size():
    # 10 and 4 and 1 after one each: 10/2 = 5 beats 4/2 = 2, then 10/3 = 3.3, then 10/4 = 2.5, then 4/2 and 10/5 tie.
    assert allot([10, 4, 1], 2) == [1, 1, 0]
    assert allot([10, 4, 1], 3) == [1, 1, 1]
    assert allot([10, 4, 1], 6) == [4, 1, 1]
    assert allot([10, 4, 1], 8) == [5, 2, 1]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 200))
def test_what_is_allotted_is_what_was_asked_for_or_all_and_no_group_gives_more_than_it_has(sizes, count):
    shares = allot(sizes, count)
    assert sum(shares) == min(count, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert count < len(sizes) or min(shares) >= 1


def test_indices_are_spread_evenly():
    assert spread(10, 5, 0.5).tolist() == [1, 3, 5, 7, 9]
    assert spread(10, 2, 0.0).tolist() == [0, 5]
    assert spread(3, 3, 0.99).tolist() == [0, 1, 2]
    assert spread(3, 0, 0.5).tolist() == []


@example(3, 3, 1 - 2**-52)
@given(st.integers(1, 500), st.integers(1, 500), st.floats(0, 1, exclude_max=True))
def test_spread_indices_are_there_and_differ(size, count, phase):
    found = spread(size, min(size, count), phase)
    assert len(set(found.tolist())) == min(size, count)
    assert 0 <= found.min() <= found.max() < size


def test_clusters_form_around_what_is_farthest():
    points = np.array([[0], [1], [100], [101], [50], [2]], np.uint8)
    # From 0 the farthest is 101, then 50.
    assert cluster(points, 3, 0).tolist() == [0, 0, 1, 1, 2, 0]
    assert cluster(points, 1, 3).tolist() == [0] * 6
    assert set(cluster(np.zeros((4, 2), np.uint8), 3, 0).tolist()) == {0}


def test_a_short_scene_is_there_beside_a_long_one():
    rng = np.random.default_rng(0)
    motorway = rng.normal(120, 3, (1000, 12))
    tunnel = rng.normal(30, 3, (6, 12))
    town = rng.normal([200, 90] * 6, 3, (40, 12))
    frames = np.concatenate([motorway[:500], tunnel, motorway[500:], town]).astype(np.uint8)
    taken = choose(frames, frames.mean(axis=1), 32).indices
    assert len(taken) == 32
    assert sum(500 <= i < 506 for i in taken) >= 1
    assert sum(i >= 1006 for i in taken) >= 1
    # One from each group, and the rest where most frames are.
    assert sum(i < 500 or 506 <= i < 1006 for i in taken) > 16


@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 5))
def test_a_choice_is_ascending_without_doubles_as_many_as_asked_for_and_the_same_again(frames, count, seed):
    rng = np.random.default_rng(frames)
    descriptors = rng.integers(0, 256, (frames, 12), np.uint8)
    found = choose(descriptors, descriptors.mean(axis=1), count, seed)
    assert found.indices.tolist() == sorted(set(found.indices.tolist()))
    assert len(found.indices) == min(count, frames)
    again = choose(descriptors, descriptors.mean(axis=1), count, seed)
    np.testing.assert_array_equal(found.indices, again.indices)


def test_another_seed_takes_other_frames():
    descriptors = np.random.default_rng(0).integers(0, 256, (500, 12), np.uint8)
    picks = {tuple(choose(descriptors, descriptors.mean(axis=1), 16, seed).indices) for seed in range(4)}
    assert len(picks) == 4
