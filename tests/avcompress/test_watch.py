import io
import re

import pytest
from rich.console import Console

from avcompress import watch as module
from avcompress.watch import BarWatch, Loop, PlainWatch, SilentWatch, clock


def plain(watch_class: type[PlainWatch] | type[BarWatch], width: int = 80) -> tuple[PlainWatch | BarWatch, io.StringIO]:
    text = io.StringIO()
    return watch_class(Console(file=text, force_terminal=watch_class is BarWatch, width=width)), text


@pytest.mark.parametrize("kind", [PlainWatch, BarWatch])
def test_tracking_changes_no_item(kind: type[PlainWatch] | type[BarWatch]) -> None:
    watch, _ = plain(kind)
    watch.begin(1)
    with watch.step("count", reused=False) as track:
        assert list(track(range(5), 5)) == [0, 1, 2, 3, 4]
        assert list(track(iter("ab"))) == ["a", "b"]
    with SilentWatch().step("count", reused=False) as track:
        assert list(track(range(5), 5)) == [0, 1, 2, 3, 4]


def test_a_log_has_one_line_a_step() -> None:
    watch, text = plain(PlainWatch)
    watch.begin(2)
    with watch.step("read [net].onnx", reused=False) as track:
        list(track(range(100), 100))
    with watch.step("quantize", reused=True):
        pass

    assert re.fullmatch(
        r"\[1/2\] read \[net\]\.onnx: 0\.\d s\n\[2/2\] quantize: kept from the last run\n", text.getvalue()
    )


def test_a_log_hears_of_a_long_loop_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    watch, text = plain(PlainWatch)
    watch.begin(1)
    with watch.step("train", reused=False) as track:
        list(track(range(10), 10))

    lines = text.getvalue().splitlines()
    assert len(lines) == 11
    assert all(re.fullmatch(r"\[1/1\] train: \d+/10, about [\d:]+ left", line) for line in lines[:-1])


def test_the_remaining_time_is_the_mean_pace_times_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 30.0)
    assert Loop(total=8, done=2, start=20.0).left_s == 30.0
    assert Loop(total=8, done=0, start=20.0).left_s is None
    assert Loop(total=None, done=2, start=20.0).left_s is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")])
def test_times_read_as_on_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_terminal_shows_the_step_and_the_whole_run_in_three_lines_and_gets_its_cursor_back(width: int) -> None:
    watch, text = plain(BarWatch, width)
    watch.begin(4)
    with watch.step(
        "a step with a long title [128 images], longer than a narrow terminal is wide", False, True
    ) as track:
        for _ in track(range(3), 3):
            pass
        shown = text.getvalue()
    assert "step 1 of 4" in shown
    assert width < 80 or "the display rests while it is timed" in shown
    assert "3/3" not in shown or "about" in shown
    assert text.getvalue().count("\x1b[?25l") == text.getvalue().count("\x1b[?25h") == 1
    frames = shown.split("\x1b[?25l")[1]
    plain_lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in frames.splitlines()]
    assert max(len(line.strip("\r")) for line in plain_lines) <= width


def test_an_error_in_a_step_gives_the_cursor_back_and_leaves_no_tick() -> None:
    watch, text = plain(BarWatch)
    watch.begin(1)
    with pytest.raises(KeyboardInterrupt), watch.step("train", reused=False):
        raise KeyboardInterrupt

    assert text.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in text.getvalue()
    assert "✓" not in text.getvalue()


def test_letters_that_a_terminal_lacks_are_spelled() -> None:
    ascii_file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    watch = BarWatch(Console(file=ascii_file, force_terminal=True, width=80))
    watch.begin(1)
    with watch.step("quantize", reused=False):
        pass
    ascii_file.flush()

    assert b"ok" in ascii_file.buffer.getvalue()  # type: ignore[attr-defined]
