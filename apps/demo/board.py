"""Board: the demo's page and what it is told, over server-sent events on loopback."""

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web

STATIC = Path(__file__).with_name("static")
LOOPBACK = "127.0.0.1"


class Board:
    """Whoever opens the page is told all that was published before, then what comes."""

    def __init__(self) -> None:
        self._history: list[dict[str, Any]] = []
        self._listeners: set[asyncio.Queue[dict[str, Any]]] = set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self, port: int) -> None:
        """Serve the page; `port` 0 takes a free one."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/events", self._events),
                web.static("/static", STATIC),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, port)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.url = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def publish(self, kind: str, **what: Any) -> None:
        event = {"kind": kind, **what}
        self._history.append(event)
        for queue in self._listeners:
            queue.put_nowait(event)

    async def _page(self, request: web.Request) -> web.Response:
        """With ?still the page holds what was published and asks for no more: for a picture of it."""
        page = (STATIC / "demo.html").read_text()
        if "still" in request.query:
            # A tag in a text would end the script that it stands in.
            history = json.dumps(self._history).replace("<", "\\u003c")
            page = page.replace("/*history*/", f"window.HISTORY = {history};")
        return web.Response(text=page, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for event in self._history:
            queue.put_nowait(event)
        self._listeners.add(queue)
        try:
            while True:
                event = await queue.get()
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        except ConnectionError:
            return response
        finally:
            self._listeners.discard(queue)
