import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.search.trials.front import binding, dominates, front, front_of, nearest, outdoes, promoted, winner
from avcompress.search.trials.record import Figures, Line, Record, slower_ms

Points = list[tuple[float, ...]]
points = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=8)


def record(number: int, accuracy: float, ms: float = 1.0, size: int = 10, **broken: float) -> Record:
    """Lines `AP` and `p99`, which is timed; `broken` says by how much of its limit each is missed."""
    lines = tuple(
        Line(name=name, measured=1.0, sense=">=", limit=1.0, miss=broken.get(name, 0.0), timed=name == "p99")
        for name in ("AP", "p99")
    )
    figures = Figures(accuracy=accuracy, latency_ms=ms, size_bytes=size)
    return Record(
        key=str(number), number=number, tier=0, share=1.0, suggestion={}, status="judged", seconds=1.0,
        figures=figures, lines=lines,
    )  # fmt: skip


def itself(point: tuple[float, ...]) -> tuple[float, ...]:
    return point


@given(points)
def test_nothing_on_the_front_is_beaten_and_all_else_is_beaten_by_something_on_it(found: Points) -> None:
    best = front(found, itself)

    assert not any(dominates(a, b) for a, b in itertools.permutations(best, 2))
    assert all(point in best or any(dominates(other, point) for other in best) for point in found)


@given(points, st.randoms())
def test_the_front_does_not_depend_on_the_order(found: Points, random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert sorted(front(found, itself)) == sorted(front(shuffled, itself))


@given(points, points)
def test_more_trials_never_put_a_beaten_one_onto_the_front(found: Points, more: Points) -> None:
    assert set(front([*found, *more], itself)) & set(found) <= set(front(found, itself))


def test_the_winner_is_the_preferred_one_of_those_that_keep_the_contract() -> None:
    records = [record(0, 0.9, ms=3), record(1, 0.8, ms=2, size=20), record(2, 0.95, ms=1, AP=0.1)]

    assert winner(records, "latency").number == 1
    assert winner(records, "accuracy").number == 0
    assert winner(records, "size").number == 0
    assert winner([records[2]], "latency") is None


def in_turns(
    number: int, accuracy: float, ms: float, noise_ms: float | None, size: int = 10, **broken: float
) -> Record:
    found = record(number, accuracy, ms, size, **broken)
    return found.model_copy(update={"figures": found.figures.model_copy(update={"noise_ms": noise_ms})})


def test_of_trials_that_are_as_fast_as_each_other_the_next_figure_decides() -> None:
    fast, other, small = in_turns(0, 0.8, 10.0, 0.3), in_turns(1, 0.9, 10.5, 0.3), in_turns(2, 0.9, 10.4, 0.3, size=9)
    slow = in_turns(3, 0.95, 10.7, 0.3)

    assert winner([fast, other, slow], "latency").number == 1
    assert winner([fast, other, small], "latency").number == 2
    assert [each.number for each in front_of([fast, other, small])] == [0, 2]
    assert winner([in_turns(0, 0.8, 9.7, 0.3), other], "latency").number == 0


def test_in_a_row_of_trials_each_as_fast_as_the_next_none_drops_another() -> None:
    three = [in_turns(number, 0.8 + number / 100, 10 + number / 4, 0.15) for number in range(3)]
    row = [in_turns(number, 0.8 + number / 1000, 10 * 1.03**number, 0.2 * 1.03**number) for number in range(16)]

    for records in (three, row):
        assert list(front_of(records)) == records
        assert winner(records, "latency").number == 1


def test_a_trial_that_was_not_run_in_turns_is_slower_than_those_that_were() -> None:
    records = [in_turns(0, 0.8, 10.0, 0.3), in_turns(1, 0.8, 2.0, None), in_turns(2, 0.9, 3.0, None)]

    assert [each.number for each in front_of(records)] == [0, 2]
    assert winner(records, "latency").number == 0
    assert winner(records, "accuracy").number == 2
    assert slower_ms(records[1], records[0]) is None
    assert winner(records[1:], "latency").number == 1  # with none run in turns, each has its own


@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 4, st.booleans()), min_size=1, max_size=8),
    st.sampled_from(["latency", "size", "accuracy"]),
)
def test_what_is_not_on_the_front_is_outdone_by_one_that_is_and_the_winner_is_on_it(found: Points, prefer: str) -> None:
    records = [
        in_turns(number, a / 4, ms + 1.0, n / 2 if n else None, size, AP=float(broken))
        for number, (a, ms, size, n, broken) in enumerate(found)
    ]
    best, chosen = front_of(records), winner(records, prefer)  # type: ignore[arg-type]

    assert all(each in best or any(outdoes(other, each) for other in best) for each in records)
    assert chosen in best if any(each.met for each in records) else chosen is None
    assert not any(outdoes(one, other) for one, other in itertools.permutations(best, 2))


@given(points)
def test_without_noise_the_front_is_the_usual_one(found: Points) -> None:
    records = [record(number, -a, ms, int(size)) for number, (a, ms, size) in enumerate(found)]

    assert [
        (-each.figures.accuracy, each.figures.latency_ms, each.figures.size_bytes) for each in front_of(records)
    ] == [*front(found, itself)]


def test_a_trial_with_a_share_of_the_images_never_wins() -> None:
    assert winner([record(0, 0.9).model_copy(update={"share": 0.5})], "latency") is None


def test_the_line_that_no_trial_keeps_stands_in_the_way() -> None:
    records = [record(0, 0.9, p99=0.5), record(1, 0.7, AP=0.2, p99=0.1)]

    assert nearest(records).number == 0
    assert binding(records) == ("p99",)


def test_lines_that_are_kept_but_never_together_stand_in_the_way_as_the_nearest_one_breaks_them() -> None:
    records = [record(0, 0.9, p99=0.5), record(1, 0.7, AP=0.2)]

    assert nearest(records).number == 1
    assert binding(records) == ("AP",)


def test_those_that_go_on_are_the_front_first_and_no_measured_time_decides() -> None:
    records = [record(0, 0.7), record(1, 0.9, p99=9.0), record(2, 0.8, size=5), record(3, 0.95, AP=0.1)]

    for ms in (1.0, 50.0):
        slower = [each.model_copy(update={"figures": each.figures.model_copy(update={"latency_ms": ms})})
                  for each in records]  # fmt: skip
        assert {each.number for each in promoted(slower, 2)} == {1, 2}


@pytest.mark.parametrize("status", ["failed", "timed out", "refused"])
def test_what_was_not_judged_goes_no_further_and_is_never_nearest(status: str) -> None:
    lost = record(0, 0.99).model_copy(update={"status": status})

    assert promoted([lost], 1) == ()
    assert nearest([lost]) is None
    assert binding([lost]) == ()
    assert not lost.met
