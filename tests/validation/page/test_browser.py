"""The page in a real browser: nothing missing, nothing too wide, nothing from the network; light, dark, on paper."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from validation.report import Report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE_S = 60.0
REPORTS = ("full_report", "failed_report", "segmentation_report", "minimal_report")

# What a look at the page finds: a list of complaints, empty where all is well.
FIGURES = """
(async () => {
  const wrong = [];
  for (const figure of document.querySelectorAll('figure.plot')) {
    const svg = figure.querySelector('svg'), box = svg && svg.getBoundingClientRect();
    const sizes = [...svg?.querySelectorAll('path') ?? []].map(path => path.getBBox());
    const drawn = sizes.filter(size => size.width + size.height > 1);
    if (!svg || box.width < 200 || box.height < 60 || drawn.length < 3) wrong.push('empty plot: ' + figure.ariaLabel);
  }
  for (const svg of document.querySelectorAll('.panels svg')) {
    const box = svg.getBoundingClientRect();
    if (box.width < 100 || box.height < 50) wrong.push('small picture: ' + svg.ariaLabel);
  }
  for (const image of document.querySelectorAll('svg image')) {
    const copy = new Image();
    copy.src = image.getAttribute('href');
    await copy.decode().catch(() => wrong.push('an image that cannot be decoded'));
  }
  for (const node of document.querySelectorAll('[role=img], figure.plot'))
    if ((node.ariaLabel || '').length < 4) wrong.push('no text for ' + node.outerHTML.slice(0, 80));
  for (const link of document.querySelectorAll('a[href]'))
    if (!document.querySelector(link.getAttribute('href'))) wrong.push('a link to nowhere: ' + link.textContent);
  return wrong;
})()
"""
WIDTH = """
(() => {
  const page = document.documentElement, paper = matchMedia('print').matches, wrong = [];
  if (page.scrollWidth > innerWidth) {
    const wide = [...document.querySelectorAll('main *')].filter(
      node => node.getBoundingClientRect().right > innerWidth && (paper || !node.closest('.scroll')));
    wrong.push(`${page.scrollWidth} px in ${innerWidth}: ` + wide.slice(0, 3).map(node => node.outerHTML.slice(0, 90)));
  }
  for (const cell of document.querySelectorAll('.metrics th, .metrics td, .grid td, .grid th'))
    if (cell.offsetParent && cell.scrollWidth > cell.clientWidth + 1 && !cell.classList.contains('forest'))
      wrong.push('text wider than its cell: ' + cell.textContent);
  return wrong.slice(0, 5);
})()
"""
# WCAG 2 contrast of every text against the backgrounds below it; colours are read back from a canvas, as they are seen.
CONTRAST = """
(() => {
  const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const read = colour => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].map((part, index) => index < 3 ? part : part / 255);
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = rgb => {
    const [r, g, b] = rgb.map(part => part / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.unshift(read(getComputedStyle(at).backgroundColor));
    return layers.reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const wrong = new Set();
  for (const node of document.querySelectorAll('main *')) {
    const said = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    if (!said || !node.getClientRects().length || node.closest('.mark') || node.closest('.hidden')) continue;
    const style = getComputedStyle(node), under = behind(node);
    const ink = over(read(node.closest('svg') ? style.fill : style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) wrong.add(`${ratio.toFixed(2)} ${node.tagName}.${node.className.baseVal ?? node.className}`);
  }
  return [...wrong].slice(0, 5);
})()
"""


class Browser:
    """A headless Chromium, spoken to by the DevTools protocol over a pipe: messages of JSON, each ended by a NUL."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "-", str(CHROMIUM), *OPTIONS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"], pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._ids, self._buffer = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; what happens meanwhile is kept in `events`."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, page: Path, width: int, scheme: str = "light", media: str = "screen") -> None:
        """Show a page; returns when it has loaded."""
        self.events.clear()
        phone = width < 500
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def look(self, script: str) -> Any:
        """What a script finds on the page."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Messages in the console, and requests for anything but the page and what it carries itself."""
        told = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
        said = [str(event["params"]) for event in self.events if event.get("method") in told]
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return said + [url for url in asked if not url.startswith(("file:", "data:"))]

    def pdf(self) -> bytes:
        """The page on A4."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        height = self.look("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.look("innerWidth"), "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, rendered: Callable[[Report], str], tmp_path: Path) -> Path:
    """A report as a file."""
    path = tmp_path / "report.html"
    path.write_text(rendered(request.getfixturevalue(request.param)))
    return path


@pytest.mark.parametrize("page", REPORTS, indirect=True)
def test_all_figures_are_there_in_light_and_dark_and_nothing_is_asked_of_the_network(browser, page):
    for scheme in ("light", "dark"):
        browser.open(page, 1280, scheme)
        assert browser.look(FIGURES) == []
        assert browser.look("document.querySelectorAll('details').forEach(d => d.open = true)") is None
        assert browser.look(CONTRAST) == []
        assert browser.complaints() == []


@pytest.mark.parametrize("page", REPORTS, indirect=True)
def test_nothing_is_wider_than_a_desk_s_or_a_phone_s_screen(browser, page):
    for width in (1280, 390):
        browser.open(page, width)
        browser.look("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.look(WIDTH) == []


@pytest.mark.parametrize("page", REPORTS, indirect=True)
def test_paper_is_white_wide_enough_and_shows_what_the_screen_folds_away(browser, page):
    browser.open(page, 688, "dark", "print")  # A4 without its margins
    assert browser.look(WIDTH) == []
    assert browser.look(CONTRAST) == []
    assert browser.look("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    folded = (
        "[...document.querySelectorAll('details:not(.more) table')].filter(t => t.getBoundingClientRect().height < 30)"
    )
    assert browser.look(f"{folded}.length") == 0
    assert browser.pdf().startswith(b"%PDF-")


@pytest.mark.parametrize("page", ["failed_report"], indirect=True)
def test_what_failed_and_why_is_seen_without_scrolling(browser, page):
    browser.open(page, 1280)
    below = "[...document.querySelectorAll('.verdict li')].map(item => item.getBoundingClientRect().bottom)"
    assert 0 < max(browser.look(below)) < 800
    assert browser.look("document.querySelectorAll('.verdict li .cause').length") >= 3


@pytest.mark.parametrize("page", ["full_report"], indirect=True)
def test_a_browser_would_tell_of_a_figure_that_is_missing_and_of_a_page_that_asks_the_network(browser, page, tmp_path):
    html = page.read_text()
    start, end = (
        html.index("<svg", html.index('<figure class="plot')),
        html.index("</figure>", html.index('<figure class="plot')),
    )
    wrong = tmp_path / "wrong.html"
    wrong.write_text(
        html[:start]
        + html[end:].replace(
            "</main>", '<img src="https://127.0.0.1:9/x.png"><i style="display:block;width:2000px">x</i></main>'
        )
    )

    browser.open(wrong, 1280)

    assert any("empty plot" in found for found in browser.look(FIGURES))
    assert browser.look(WIDTH)
    assert browser.complaints()
