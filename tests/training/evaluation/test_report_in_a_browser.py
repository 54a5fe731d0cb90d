"""What a reader sees of a report: nothing fetched, nothing cut off, by day and by night, on a desk and on a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.chromium import Page, find_chromium, open_chromium
from tests.training.evaluation.invented import image_task, say
from training.evaluation.findings import examine
from training.evaluation.report import make_report

pytestmark = pytest.mark.slow

LIGHT, DARK = "rgb(245, 246, 248)", "rgb(20, 24, 31)"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    task = image_task(12, rows=400, channels=3)
    findings = examine(say(12), task, "val", corruption_rows=40)
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(make_report("A model", {"Version": "a@1"}, findings, task).html)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine")
    profile: Path = tmp_path_factory.mktemp("chromium")
    with open_chromium(executable, profile) as page:
        yield page


@pytest.mark.parametrize(("width", "mobile"), [(1200, False), (390, True)])
def test_the_page_fits_its_window_and_only_tables_scroll(browser: Page, url: str, width: int, mobile: bool) -> None:
    browser.open(url, width=width, mobile=mobile)
    assert browser.run("document.documentElement.scrollWidth") == width
    wide = browser.run(
        "[...document.querySelectorAll('figure, p, li, .tile, .pictures img')]"
        f".filter(e => e.getBoundingClientRect().right > {width}).length"
    )
    assert wide == 0
    assert browser.run(
        "[...document.querySelectorAll('figure > svg')].every(e => e.getBoundingClientRect().width > 250)"
    )
    assert browser.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize(("theme", "back"), [("light", LIGHT), ("dark", DARK)])
def test_plots_take_the_colours_of_the_hour(browser: Page, url: str, theme: str, back: str) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    browser.open(url)
    assert browser.run("getComputedStyle(document.body).backgroundColor") == back
    ink = browser.run("getComputedStyle(document.body).color")
    assert browser.run("getComputedStyle(document.querySelector('figure > svg')).fill") == ink
    assert browser.run("getComputedStyle(document.querySelector('#text_1 use')).fill") != back


def test_nothing_is_fetched_and_nothing_complains(browser: Page, url: str) -> None:
    browser.open(url)
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [address for address in asked if not address.startswith(("file:", "data:"))] == []
    assert not [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert browser.text("h1") == "A model"
    assert browser.text(".lede").startswith(("7", "8"))
