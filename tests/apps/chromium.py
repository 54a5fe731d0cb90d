"""A headless Chromium that a test drives by hand: real pointers, real keys, over the DevTools protocol."""

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
# Key codes of the DevTools protocol for the keys that have no character of their own.
KEY_CODES = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}
KEY_CODES["ArrowDown"] = 40


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. Calls block until the browser has done what was asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._ids = loop, socket, itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return asyncio.run_coroutine_threadsafe(self._call(method, parameters), self._loop).result(60)

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads(await self._socket.receive_str())
            if message.get("id") != number:
                self.events.append(message)
            elif "error" in message:
                raise AssertionError(f"{method}: {message['error']}")
            else:
                return dict(message["result"])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script: str, timeout_s: float = 20) -> Any:
        """Until the expression is true; its value."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.run('document.body.innerText')}"
            time.sleep(0.03)
        return value

    def open(self, url: str, width: int = 1200, height: int = 900, mobile: bool = False) -> None:
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def text(self, selector: str) -> str:
        """The text that is seen there; empty where nothing is."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def seen(self, selector: str) -> bool:
        return bool(self.run(f"Boolean(document.querySelector({json.dumps(selector)})?.getClientRects().length)"))

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width, height within the window, scrolled into view."""
        query = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{query}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        left, top, width, height = self.run(
            f"(({{left, top, width, height}}) => [left, top, width, height])({query}.getBoundingClientRect())"
        )
        return left, top, width, height

    def click(self, selector: str) -> None:
        left, top, width, height = self.box(selector)
        self.drag([(left + width / 2, top + height / 2)])

    def drag(self, points: list[tuple[float, float]]) -> None:
        """The mouse: press at the first point, move over the others, release at the last."""
        kinds = ["mousePressed"] + ["mouseMoved"] * (len(points) - 1) + ["mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def swipe(self, points: list[tuple[float, float]]) -> None:
        """One finger: down at the first point, over the others, up at the last."""
        for index, (x, y) in enumerate(points):
            kind = "touchMove" if index else "touchStart"
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str, times: int = 1, ctrl: bool = False) -> None:
        text = {" ": " ", "Enter": "\r"}.get(key, "") if not ctrl else ""
        known = {"key": key, "windowsVirtualKeyCode": KEY_CODES[key], "modifiers": 2 if ctrl else 0}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **known)
            self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def upload(self, selector: str, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path: Path) -> None:
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(image["data"]))


@contextmanager
def open_chromium(executable: str, profile: Path) -> Iterator[Page]:
    """A browser with a profile of its own and one tab; ended with the block."""
    command = [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    session: aiohttp.ClientSession | None = None
    try:
        port = _wait(lambda: (profile / "DevToolsActivePort").read_text().split()[0], process)
        session, socket = asyncio.run_coroutine_threadsafe(_attach(f"http://127.0.0.1:{port}"), loop).result(30)
        yield Page(loop, socket)
    finally:
        if session is not None:
            asyncio.run_coroutine_threadsafe(session.close(), loop).result(30)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _attach(address: str) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    async with session.get(f"{address}/json/list") as response:
        tabs = await response.json()
    tab = next(tab for tab in tabs if tab["type"] == "page")
    return session, await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)


def _wait(read: Callable[[], str], process: "subprocess.Popen[bytes]", timeout_s: float = 60) -> str:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return read()
        except (OSError, IndexError):
            assert process.poll() is None, f"Chromium ended with code {process.returncode}"
            assert time.monotonic() < deadline, f"Chromium did not start within {timeout_s} s"
            time.sleep(0.1)
