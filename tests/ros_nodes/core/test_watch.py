import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros_nodes.core.watch import Limits, Watch, batches_to_return, miss, observe

MS = 1_000_000
LIMITS = Limits(deadline_ns=10 * MS, fall_back_after=3, return_after=4, return_share=0.8, has_fallback=True)
ALONE = Limits(deadline_ns=10 * MS, fall_back_after=3)


def after(times_ms, limits=LIMITS, watch=None):
    """The watch after batches of so many milliseconds, published back to back."""
    watch, now = watch or Watch(), 0
    for took in times_ms:
        now += took * MS
        watch = observe(watch, limits, now, took * MS)
    return watch


def test_a_time_of_exactly_the_deadline_keeps_it():
    assert after([10]).misses == 0
    assert after([11]).misses == 1


def test_misses_in_a_row_lead_to_the_fallback_and_others_do_not():
    assert not after([11, 11, 9, 11, 11]).on_fallback
    fallen = after([11, 11, 11])
    assert (fallen.on_fallback, fallen.fallbacks, fallen.misses, fallen.total_misses) == (True, 1, 0, 3)


def test_without_a_fallback_misses_are_only_counted():
    watch = after([11] * 50, ALONE)
    assert (watch.on_fallback, watch.misses, watch.fallbacks) == (False, 50, 0)


def test_batches_with_room_to_spare_lead_back_and_others_begin_anew():
    fallen = after([11] * 3)
    assert after([8, 8, 8, 9, 8, 8, 8], watch=fallen).on_fallback
    back = after([8, 8, 8, 9, 8, 8, 8, 8], watch=fallen)
    assert (back.on_fallback, back.returns) == (False, 1)


def test_a_fallback_that_misses_too_stays_and_says_so():
    watch = after([11] * 20)
    assert (watch.on_fallback, watch.fallbacks, watch.misses) == (True, 1, 17)


def test_each_relapse_soon_after_a_return_doubles_the_way_back_up_to_a_limit():
    watch, ways = Watch(), []
    for _ in range(8):
        watch = after([11] * 3, watch=watch)
        ways.append(batches_to_return(watch, LIMITS))
        watch = after([1] * ways[-1], watch=watch)
        assert not watch.on_fallback
    assert ways == [4, 8, 16, 32, 64, 128, 128, 128]


def test_a_primary_that_has_kept_it_for_as_long_as_the_way_back_takes_is_trusted_again():
    watch = after([11] * 3 + [1] * 4 + [11] * 3 + [1] * 8)  # doubled once
    soon, later = after([9] * 5 + [11] * 3, watch=watch), after([9] * 6 + [11] * 3, watch=watch)
    assert batches_to_return(soon, LIMITS) == 16
    assert batches_to_return(later, LIMITS) == 4


def test_how_long_it_has_been_missed_counts_from_the_first_miss():
    assert after([11, 12]).late_since_ns == 11 * MS
    assert after([11, 12, 5]).late_since_ns is None


def test_a_batch_that_is_still_worked_on_is_a_miss_as_soon_as_its_deadline_passes():
    watch = miss(Watch(), LIMITS, 11 * MS)
    assert (watch.misses, watch.took_ns, watch.late_since_ns) == (1, None, 11 * MS)


@given(st.lists(st.integers(1, 20), max_size=300), st.booleans())
def test_the_fallback_is_taken_one_more_time_than_left_or_as_often_and_only_where_there_is_one(times, has_fallback):
    limits = LIMITS if has_fallback else ALONE
    watch = after(times, limits)
    assert watch.fallbacks - watch.returns == watch.on_fallback
    assert watch.total_misses == sum(took > 10 for took in times)
    assert has_fallback or watch.fallbacks == 0
    # No alternation: between two changes lie at least as many batches as the shorter way takes.
    assert watch.fallbacks + watch.returns <= len(times) / min(LIMITS.fall_back_after, LIMITS.return_after)


@pytest.mark.parametrize("times", [[11] * 3 + [8] * 3, [11] * 3 + [8] * 3 + [9] * 100])
def test_room_to_spare_is_asked_for_in_a_row(times):
    assert after(times).on_fallback
