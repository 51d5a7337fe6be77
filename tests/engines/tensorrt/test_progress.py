from hypothesis import given
from hypothesis import strategies as st

from engines.tensorrt.progress import LogProgress, Progress, ProgressFile, finish, start, step


def follow(*events):
    progress = Progress()
    fractions = []
    for event in events:
        progress.event(event.rstrip("\n"))
        fractions.append(round(progress.fraction, 4))
    return fractions


def test_a_phase_counts_as_one_step_of_its_parent():
    assert follow(
        start("build", None, 2),
        start("time", "build", 4),
        step("time", 0),
        step("time", 2),
        finish("time"),
        step("build", 0),
        step("build", 1),
    ) == [0, 0, 0.125, 0.375, 0.375, 0.5, 1.0]


def test_what_was_reached_never_shrinks():
    assert follow(start("a", None, 2), step("a", 1), finish("a"), start("b", None, 2), step("b", 0))[-1] == 1.0


def test_foreign_and_half_written_lines_are_passed_over():
    assert follow("", "start\ta", "step\tnobody\t3", "start\ta\t\tmany", "step\ta\tx", "finish\ta") == [0] * 6


@given(
    st.lists(
        st.sampled_from(["start\ta\t\t3", "start\tb\ta\t2", "start\ta\tb\t2", "step\ta\t7", "step\tb\t0", "finish\ta"])
    )
)
def test_any_order_of_events_gives_a_fraction(events):
    assert all(0 <= fraction <= 1 for fraction in follow(*events))


def test_a_file_is_read_as_it_grows_also_in_the_middle_of_a_line(tmp_path):
    file = ProgressFile(tmp_path / "progress.tsv")
    assert file.percent() == 0
    content = start("build", None, 4) + step("build", 0) + step("build", 3)
    for end, expected in ((20, 0), (len(content) - 3, 25), (len(content), 99)):
        (tmp_path / "progress.tsv").write_text(content[:end])
        assert file.percent() == expected


def test_a_builder_without_a_monitor_is_followed_by_its_log():
    written = []
    progress = LogProgress(written.append)

    for message in (
        "Original: 9 layers",
        "After dead-layer removal: 8 layers",
        "After final dead-layer removal: 4 layers",
        "=============== Computing costs for c1",
        "*************** Autotuning format combination: Float(1,1) ***************",
        "=============== Computing costs for c2",
    ):
        progress.message(message)

    assert follow(*written)[-1] == 0.5
