"""The page of a search: what options bought, every trial, and nothing that a name could break."""

import html.parser
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avcompress.search.trials.choices import texts_in
from avcompress.search.trials.effects import beside, effects, only_difference
from avcompress.search.trials.page import PAGE, Dot, _rising, render
from avcompress.search.trials.process import Task
from avcompress.search.trials.record import Figures, Record
from avcompress.search.trials.report import report_of
from avcompress.search.trials.space import load_space
from avcompress.searching import SearchJob, execute_search
from avcompress.watch import SilentWatch

HOSTILE = "<script>alert(1)</script>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def record(number: int, accuracy: float | None, ms: float | None = 1.0, **suggestion: float) -> Record:
    return Record(
        key=f"{number:064x}", number=number, tier=0, share=1.0, suggestion=suggestion, status="judged", seconds=1.0,
        figures=Figures(accuracy=accuracy, latency_ms=ms, size_bytes=1000 + number, noise_ms=0.1),
    )  # fmt: skip


def test_an_effect_is_the_mean_over_pairs_that_differ_in_one_choice() -> None:
    found = effects([record(0, 0.5, a=0, b=0), record(1, 0.7, 3.0, a=1, b=0), record(2, 0.4, a=0, b=1),
                     record(3, 0.8, 2.0, a=1, b=1)])  # fmt: skip

    assert [(each.choice, each.of, each.to, each.pairs) for each in found] == [("a", 0, 1, 2), ("b", 0, 1, 2)]
    assert found[0].accuracy == pytest.approx((0.2 + 0.4) / 2)
    assert found[0].latency_ms == pytest.approx((2.0 + 1.0) / 2)
    assert found[0].size_bytes == pytest.approx(1)
    assert found[1].accuracy == pytest.approx((-0.1 + 0.1) / 2)


def test_latencies_count_where_they_were_measured_in_turns_and_differ_by_more_than_their_noise() -> None:
    one, near, far = record(0, 0.5, 2.0, a=0), record(1, 0.5, 2.1, a=1), record(2, 0.5, 2.3, a=2)
    alone = far.model_copy(update={"figures": far.figures.model_copy(update={"noise_ms": None})})

    assert [each.latency_ms for each in effects([one, near])] == [0.0]
    assert [each.latency_ms for each in effects([one, far])] == [pytest.approx(0.3)]
    assert [each.latency_ms for each in effects([one, alone])] == [None]


def test_what_an_option_leads_to_differs_with_it_and_what_was_not_measured_counts_nowhere() -> None:
    one, other = record(0, 0.5, a=0), record(1, None, a=1, **{"a=1.x": 0.25})

    assert only_difference(one, other) == "a"
    assert only_difference(one, record(2, 0.5, a=1, b=1)) is None
    assert only_difference(one, one) is None
    (effect,) = effects([one, other])
    assert (effect.accuracy, effect.latency_ms, effect.pairs) == (None, 0.0, 1)


def test_the_choices_of_the_best_are_held_beside_what_was_tried_in_their_place() -> None:
    best = record(0, 0.9, a=1, b=0)
    found = beside(best, [best, record(1, 0.6, a=0, b=0), record(2, 0.8, a=1, b=1), record(3, 0.1, a=0, b=1)])

    assert [(each.choice, each.of, each.to, pytest.approx(each.accuracy)) for each in found] == [
        ("a", 0, 1, 0.3), ("b", 1, 0, 0.1),
    ]  # fmt: skip


def test_options_are_told_on_a_line_each() -> None:
    node = yaml.compose("a: {choose: [null, {deep: {choose: [x, [1, 2]]}}]}\nb: {between: [1, 2]}")

    assert texts_in(node) == {"a": ("null", "{deep: {choose: [x, [1, 2]]}}"), "a=1.deep": ("x", "[1, 2]")}


class _Reader(html.parser.HTMLParser):
    """Collects what a page says, and the tags that it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags, self.links, self.names = "", [], set(), set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.names |= {given["id"]} if "id" in given else set()
        self.links |= {given["href"]} if "href" in given else set()

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


@pytest.fixture
def page(searched: Callable[..., Path], fake_runner: Any, tmp_path: Path) -> str:
    """Of a search whose first trial failed with words that would be a tag."""
    pytest.importorskip("optuna", reason="the extra `search` is not installed")
    path = searched(shares=[1.0], trials=8)
    fake = fake_runner(statuses={0: "failed"})

    def runner(task: Task) -> Record:
        found = fake(task)
        return found.model_copy(update={"message": HOSTILE}) if found.status == "failed" else found

    execute_search(SearchJob(load_space(path), tmp_path, tmp_path / "out", runner=runner), SilentWatch())
    return (tmp_path / "out" / PAGE).read_text()


def test_every_trial_is_on_the_page_and_every_link_within_leads_somewhere(page: str) -> None:
    found = read(page)

    assert {link[1:] for link in found.links if link.startswith("#")} <= found.names
    assert {f"trial-{number}" for number in range(1, 8)} <= found.names
    assert f"failed: {HOSTILE}" in found.text
    assert "The contract is kept" in found.text
    assert "stages[1].ranges" in found.text
    assert found.tags.count("circle") == 7 + 1


def test_what_a_trial_says_is_never_taken_for_a_tag(page: str) -> None:
    assert "script" not in read(page).tags
    assert HOSTILE not in page


def test_the_line_of_the_front_rises_in_the_two_figures_that_are_drawn() -> None:
    dots = [Dot(record(number, 0.5), x, y, 5.0, "") for number, (x, y) in enumerate([(10, 90), (20, 95), (30, 40)])]

    assert [dot.record.number for dot in _rising(dots)] == [0, 2]


def test_a_search_without_a_judged_trial_has_a_page_too(searched: Callable[..., Path], tmp_path: Path) -> None:
    lost = record(0, None).model_copy(update={"status": "timed out", "message": "ended after 1 s"})
    found = read(render(report_of("x", "mIoU", [lost], "latency"), load_space(searched()), tmp_path))

    assert "No trial was judged." in found.text
    assert "timed out: ended after 1 s" in found.text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_a_browser_shows_the_best_trial_first_and_the_one_that_was_clicked_then(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page)

    def shown(address: str) -> bytes:
        """A picture, to be compared: scripts are forbidden on the page, and the picture shows what is displayed."""
        file = tmp_path / "shot.png"
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   f"--user-data-dir={tmp_path}/profile", "--window-size=1000,3000", f"--screenshot={file}",
                   f"file://{tmp_path}/page.html{address}"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return file.read_bytes()

    assert shown("") != shown("#trial-5") != shown("#trial-6")
