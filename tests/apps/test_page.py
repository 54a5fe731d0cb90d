"""The page at /, used as a person does: in headless Chromium, before a server that answers by rote."""

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.pages import PAGE_POLICY
from tests.apps.chromium import Page, find_chromium, open_chromium

pytestmark = pytest.mark.slow

STATIC = Path(__file__).parents[2] / "apps" / "static"
RELEASES = [{"name": "3", "weight": 1.0, "threshold": 0.9}]
DIGITS = {
    "name": "digits", "kind": "image", "height": 8, "width": 8, "channels": 1, "labels": list("0123456789"),
    "releases": RELEASES, "deadline_ms": 50,
}  # fmt: skip
NEWS = {"name": "ag_news", "kind": "text", "labels": ["World", "Sports"], "releases": RELEASES, "deadline_ms": 50}
PHOTOS = {**DIGITS, "name": "photos", "height": 224, "width": 224, "channels": 3, "labels": ["cat", "<b>dog</b>"]}


def answer(model, label, probability, variant="student", reason="confident"):
    rest = [other for other in model["labels"] if other != label]
    others = [{"label": other, "probability": (1 - probability) / len(rest)} for other in rest]
    return {
        "model": model["name"], "release": "3", "variant": variant, "reason": reason, "latency_ms": 4.25,
        "predictions": [{"label": label, "probability": probability}, *others],
    }  # fmt: skip


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def image(self):
        return np.asarray(Image.open(io.BytesIO(self.body)).convert("L"))


@dataclass
class StandIn:
    """What the server says (status and JSON) and what it was asked."""

    url: str = ""
    models: list = field(default_factory=list)
    status: int = 200
    says: dict = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def do_GET(self):
        path = STATIC / ("page.html" if self.path == "/" else self.path.removeprefix("/static/"))
        if self.path == "/v1/models":
            self._reply(200, "application/json", json.dumps({"models": self.stand_in.models}).encode())
        elif (self.path == "/" or self.path.startswith("/static/")) and path.is_file():
            kinds = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
            self._reply(200, kinds.get(path.suffix, "image/png"), path.read_bytes())
        else:
            self._reply(404, "application/json", b'{"error": "no such thing"}')

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.stand_in.asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self._reply(self.stand_in.status, "application/json", json.dumps(self.stand_in.says).encode())

    def _reply(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", PAGE_POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine: the page is tried only where one is installed")
    with open_chromium(executable, tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn(models=[DIGITS], says=answer(DIGITS, "7", 0.93))
    handler = type("Bound", (Handler,), {"stand_in": stand_in})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        stand_in.url = f"http://127.0.0.1:{httpd.server_address[1]}/"
        yield stand_in
        httpd.shutdown()
        thread.join()


@pytest.fixture
def opened(page, server) -> Page:
    return open_page(page, server)


def open_page(page, server, **size):
    page.open(server.url, **size)
    page.wait("!document.querySelector('#ask').disabled")
    return page


def seven(page):
    """Points of a 7 over the canvas."""
    left, top, width, height = page.box("#canvas")
    corners = [(0.3, 0.2), (0.5, 0.2), (0.7, 0.2), (0.6, 0.5), (0.45, 0.8)]
    return [(left + x * width, top + y * height) for x, y in corners]


def wait_for_answer(page):
    page.wait("!document.querySelector('#answer').hidden")


def problem(page):
    return page.wait("document.querySelector('#problem').innerText")


def assert_is_the_seven(image):
    height, width = image.shape
    assert image[0, 0] > 240 and image[-1, -1] > 240, "the ground is white"
    assert image[int(0.2 * height), int(0.5 * width)] < 40, "the bar of the 7 is dark"
    assert image[int(0.7 * height), int(0.49 * width)] < 40, "so is its stem"
    assert 0.05 < (image < 128).mean() < 0.3, "the pen is thick"


def test_a_drawing_by_mouse_is_sent_as_dark_strokes_on_white(opened, server):
    opened.drag(seven(opened))
    wait_for_answer(opened)
    assert [asked.path for asked in server.asked] == ["/v1/models/digits:predict"]
    assert server.asked[0].headers["content-type"] == "image/png"
    assert server.asked[0].body.startswith(b"\x89PNG")
    assert_is_the_seven(server.asked[0].image)


def test_a_drawing_by_finger_on_a_phone_is_sent_and_does_not_scroll_the_page(page, server):
    open_page(page, server, width=390, height=844, mobile=True)
    points = seven(page)
    before = page.run("scrollY")
    page.swipe(points)
    wait_for_answer(page)
    assert page.run("scrollY") == before
    assert_is_the_seven(server.asked[0].image)


def test_the_answer_shows_label_bars_variant_reason_release_and_times(opened, server):
    server.says = answer(DIGITS, "7", 0.93, "teacher", "escalated")
    opened.drag(seven(opened))
    wait_for_answer(opened)
    assert opened.text("#label") == "7"
    assert "93.0 %" in opened.text("#certainty")
    bars = "[...document.querySelectorAll('#bars li')]"
    assert opened.run(f"{bars}.map((bar) => bar.dataset.label).join('')") == "0123456789"
    widths = opened.run(f"{bars}.map((bar) => bar.querySelector('.fill').offsetWidth)")
    assert widths[7] == max(widths) and widths[7] > 50 * max(widths[:7])
    assert opened.text("#variant") == "teacher"
    assert opened.text("#reason") == "escalated"
    assert "not sure" in opened.text("#route")
    assert opened.text("#release") == "3"
    assert opened.text("#latency") == "4.3 ms"
    assert float(opened.text("#round-trip").removesuffix(" ms")) > 0


@pytest.mark.parametrize("cause", ["overload", "timeout", "unavailable"])
def test_a_fallback_is_explained(opened, server, cause):
    server.says = answer(DIGITS, "7", 0.6, "student", f"fallback:{cause}")
    opened.click("#sample")
    wait_for_answer(opened)
    assert opened.text("#reason") == f"fallback:{cause}"
    assert "the student answered alone" in opened.text("#route")


def test_the_mode_is_sent_and_changing_it_asks_again(opened, server):
    opened.drag(seven(opened))
    wait_for_answer(opened)
    server.says = answer(DIGITS, "7", 0.99, "teacher", "pinned")
    opened.run("mode.value = 'teacher'; mode.dispatchEvent(new Event('change'))")
    opened.wait("document.querySelector('#variant').innerText === 'teacher'")
    assert [asked.headers["x-tandem-mode"] for asked in server.asked] == ["cascade", "teacher"]


def test_clear_wipes_the_drawing_and_the_answer(opened, server):
    opened.drag(seven(opened))
    wait_for_answer(opened)
    opened.click("#clear")
    assert not opened.seen("#answer")
    opened.click("#ask")
    assert "Draw something" in problem(opened)
    assert len(server.asked) == 1


def test_the_sample_is_shown_and_asked_about(opened, server):
    opened.click("#sample")
    wait_for_answer(opened)
    assert server.asked[0].body == (STATIC / "sample_digit.png").read_bytes()
    assert opened.run("document.querySelector('#preview-image').naturalWidth") == 200
    assert opened.seen("#preview") and not opened.seen("#canvas")
    opened.click("#clear")
    assert opened.seen("#canvas") and not opened.seen("#preview")


def test_an_uploaded_file_is_sent_unchanged_with_its_own_type(opened, server, tmp_path):
    path = tmp_path / "digit.jpg"
    Image.new("L", (40, 50), 200).save(path)
    opened.upload("#file", path)
    wait_for_answer(opened)
    assert server.asked[0].body == path.read_bytes()
    assert server.asked[0].headers["content-type"] == "image/jpeg"
    assert "digit.jpg" in opened.text("#preview")


@pytest.mark.parametrize(
    ("status", "detail", "kind"),
    [
        (400, "not a PNG or JPEG image", "could not be read"),
        (503, "the teacher's queue is full", "try again"),
        (500, "an unforeseen error", "went wrong"),
    ],
)
def test_an_error_is_shown_kindly_with_its_detail(opened, server, status, detail, kind):
    server.status, server.says = status, {"error": detail}
    opened.click("#sample")
    shown = problem(opened)
    assert detail in shown and kind in shown
    assert not opened.seen("#answer")
    assert opened.run("document.querySelector('#problem').getAttribute('role')") == "alert"


def test_the_next_good_answer_replaces_an_error(opened, server):
    server.status, server.says = 503, {"error": "full"}
    opened.click("#sample")
    problem(opened)
    server.status, server.says = 200, answer(DIGITS, "3", 0.8)
    opened.click("#ask")
    wait_for_answer(opened)
    assert not opened.seen("#problem")


def test_a_server_without_models_is_said_so(page, server):
    server.models = []
    page.open(server.url)
    assert "no model" in problem(page)


def test_text_is_typed_and_sent_as_json(page, server):
    server.models, server.says = [NEWS], answer(NEWS, "Sports", 0.7)
    open_page(page, server)
    assert page.seen("#text") and not page.seen("#canvas") and not page.seen("#sample")
    page.click("#text")
    page.type('Zürich wins 3 : 1, "at last"')
    page.press("Enter", ctrl=True)
    wait_for_answer(page)
    assert server.asked[0].path == "/v1/models/ag_news:predict"
    assert json.loads(server.asked[0].body) == {"text": 'Zürich wins 3 : 1, "at last"'}
    assert page.text("#label") == "Sports"


def test_an_empty_text_is_not_sent(page, server):
    server.models = [NEWS]
    open_page(page, server).click("#ask")
    assert "Type a text" in problem(page)
    assert not server.asked


def test_large_colour_images_are_uploaded_not_drawn(page, server):
    server.models = [PHOTOS]
    open_page(page, server)
    assert page.seen("#file") and not page.seen("#canvas") and not page.seen("#sample")


def test_labels_are_shown_as_text_never_as_markup(page, server, tmp_path):
    server.models, server.says = [PHOTOS], answer(PHOTOS, "<b>dog</b>", 0.9)
    open_page(page, server)
    path = tmp_path / "photo.png"
    Image.new("RGB", (30, 30)).save(path)
    page.upload("#file", path)
    wait_for_answer(page)
    assert page.text("#label") == "<b>dog</b>"


def test_the_model_can_be_chosen_where_there_are_several(page, server):
    server.models = [DIGITS, NEWS]
    open_page(page, server)
    assert page.seen("#canvas")
    page.run("model.selectedIndex = 1; model.dispatchEvent(new Event('change'))")
    assert page.seen("#text") and not page.seen("#canvas")


def test_everything_works_by_keyboard_alone(opened, server):
    """Tab to the canvas, draw a stroke with the arrows, tab on to the button and press it."""
    visited = []
    for _ in range(12):
        opened.press("Tab")
        visited.append(opened.run("document.activeElement.id"))
        if visited[-1] == "canvas":
            opened.press("ArrowUp", 10)
            opened.press(" ")
            opened.press("ArrowDown", 20)
            opened.press(" ")
        if visited[-1] == "ask":
            opened.press("Enter")
            break
    assert [name for name in visited if name] == ["mode", "canvas", "file", "sample", "clear", "ask"]
    wait_for_answer(opened)
    dark = np.argwhere(server.asked[0].image < 128)
    (top, left), (bottom, right) = dark.min(axis=0), dark.max(axis=0)
    assert bottom - top > 3 * (right - left), "a vertical stroke"


def test_every_control_has_a_name_and_the_answer_is_announced(opened, server):
    opened.click("#sample")
    wait_for_answer(opened)
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "combobox", "textbox", "link"}
    named = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if "role" in node]
    assert not [role for role, name in named if role in controls and not name]
    assert ("button", "Ask") in named
    assert "7, 93.0 %, by the student" in opened.run("document.querySelector('[role=status]').textContent")


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_complained_of(opened, server):
    opened.click("#sample")
    wait_for_answer(opened)
    urls = [
        event["params"]["request"]["url"] for event in opened.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) >= 5
    assert not [url for url in urls if not url.startswith((server.url, "data:", "blob:"))]
    complaints = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
    assert not [event for event in opened.events if event["method"] in complaints]


@pytest.mark.parametrize(("width", "height", "mobile"), [(1200, 900, False), (390, 844, True), (320, 640, True)])
def test_the_page_fits_the_window(page, server, width, height, mobile):
    open_page(page, server, width=width, height=height, mobile=mobile)
    page.click("#sample")
    wait_for_answer(page)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_the_page_links_to_the_api(opened):
    assert opened.run("Boolean(document.querySelector('a[href=\"/docs\"]'))")
