import pytest

from ros_nodes.core.counts import REASONS, Tally


def test_what_is_neither_published_nor_dropped_is_pending():
    tally = Tally(received=5, published=1)
    tally.drop("superseded")
    tally.drop_stale(300, 100)
    counts = tally.counts
    assert counts.pending == 2
    assert counts.dropped == {**dict.fromkeys(REASONS, 0), "superseded": 1, "stale": 1}


@pytest.mark.parametrize(
    ("age", "band"), [(101, "1-2"), (199, "1-2"), (200, "2-4"), (799, "4-8"), (800, "8-"), (10**9, "8-")]
)
def test_stale_frames_are_counted_by_how_much_too_old_they_were(age, band):
    tally = Tally()
    tally.drop_stale(age, 100)
    assert [name for name, count in tally.counts.stale_ages.items() if count] == [band]


def test_a_copy_stays_as_it_is():
    tally = Tally()
    before = tally.counts
    tally.drop("failed")
    assert before.dropped["failed"] == 0
