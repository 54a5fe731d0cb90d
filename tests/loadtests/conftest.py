"""A small V2 endpoint inside the test process, whose delays and errors a test can set."""

import asyncio
import itertools
import json
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from loadtests.samples import bundled_digits


class StubEndpoint:
    """Answers as the real endpoint does, with the true class as the largest logit.

    `delay_s` before each answer; `serial` answers one after another; `stall` = (request number, seconds) holds one
    request up; `fail_every` = k answers every k-th with 503; `status` answers all with that. `modes` are the delays
    of requests that ask for a mode; those for the teacher or the student are answered by it, as of `variant` not set.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.serial = False
        self.stall: tuple[int, float] | None = None
        self.fail_every = 0
        self.status = 200
        self.modes: dict[str, float] = {}
        self.release = "digits.endpoint/1"
        self.variant: str | None = None
        self.reason: str | None = None
        self.output_shape: list[int] | None = None
        self.input_shape = [-1, 1, 8, 8]
        self.heads: list[dict[str, Any]] = []
        self.predicted: list[str] = []
        self.url = ""
        digits = bundled_digits()
        self._class_of = {
            image.tobytes(): int(label) for image, label in zip(digits.inputs, digits.labels, strict=True)
        }
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()

    async def metadata(self, request: web.Request) -> web.Response:
        if request.match_info["model"] != "digits":
            return web.json_response({"error": "unknown model"}, status=404)
        inputs = [{"name": "image", "datatype": "UINT8", "shape": self.input_shape}]
        outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
        return web.json_response({"name": "digits", "versions": ["3"], "inputs": inputs, "outputs": outputs})

    async def infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        head_bytes = int(request.headers.get("Inference-Header-Content-Length", len(body)))
        head = json.loads(body[:head_bytes])
        self.heads.append(head)
        number = next(self._numbers)
        await self._wait(number)
        mode = head.get("parameters", {}).get("mode", "")
        await asyncio.sleep(self.modes.get(mode, 0.0))
        if self.status != 200 or (self.fail_every and number % self.fail_every == 0):
            return web.json_response({"error": "told to fail"}, status=self.status if self.status != 200 else 503)
        tensor = head["inputs"][0]
        pixels = body[head_bytes:] or bytes(tensor["data"])
        images = [pixels[start : start + 64] for start in range(0, len(pixels), 64)]
        logits = [float(c == self._class_of[image]) for image in images for c in range(10)]
        pinned = mode if self.modes and mode in ("teacher", "student") else None
        variant = self.variant or pinned or ("teacher" if number % 4 == 0 else "student")
        headers = {"x-tandem-variant": variant, "x-tandem-release": self.release}
        headers["x-tandem-reason"] = self.reason or ("deferred" if variant == "teacher" else "confident")
        return self._answer(logits, head["outputs"][0], headers)

    def _answer(self, logits: list[float], wanted: dict[str, Any], headers: dict[str, str]) -> web.Response:
        output = {"name": "logits", "datatype": "FP32", "shape": self.output_shape or [len(logits) // 10, 10]}
        if not wanted.get("parameters", {}).get("binary_data"):
            return web.json_response({"outputs": [output | {"data": logits}]}, headers=headers)
        raw = struct.pack(f"<{len(logits)}f", *logits)
        head = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
        return web.Response(body=head + raw, headers=headers | {"Inference-Header-Content-Length": str(len(head))})

    async def _wait(self, number: int) -> None:
        held_s = self.stall[1] if self.stall and number == self.stall[0] else self.delay_s
        if self.serial:
            async with self._lock:
                await asyncio.sleep(held_s)
        else:
            await asyncio.sleep(held_s)

    async def predict(self, request: web.Request) -> web.Response:
        if request.content_type == "multipart/form-data":
            field = (await request.post())["file"]
            assert isinstance(field, web.FileField)
            image = field.file.read()
        else:
            image = await request.read()
        self.predicted.append(request.content_type)
        if not image.startswith(b"\x89PNG"):
            return web.json_response({"error": "not a PNG"}, status=400)
        return web.json_response({"predictions": [{"label": "3", "probability": 0.9}]})


@pytest.fixture
def endpoint() -> Iterator[StubEndpoint]:
    """A stub on a free port, served by a thread of its own."""
    loop = asyncio.new_event_loop()
    stub = StubEndpoint()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v2/models/{model}", stub.metadata)
        app.router.add_post("/v2/models/{model}/infer", stub.infer)
        app.router.add_post("/v1/models/{model}:predict", stub.predict)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield stub
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
