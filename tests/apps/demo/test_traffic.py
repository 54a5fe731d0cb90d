"""The demo's load: what it sends, and what it tells of what came back."""

import asyncio
import json
from collections import Counter

import numpy as np
from aiohttp import web

from apps.demo.traffic import Ended, Traffic, Window, payloads

LABELS = np.array([0, 1, 2])
INPUTS = np.zeros((3, 1, 2, 2), np.uint8)


def exchange(answer, mode="cascade", rate=200.0, seconds=0.5):
    """What `Traffic` tells after so long at an endpoint that answers as `answer(body)` does."""

    async def handle(request):
        return answer(await request.json())

    async def main():
        app = web.Application()
        app.add_routes([web.post("/infer", handle)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        traffic = Traffic(f"http://127.0.0.1:{port}/infer", payloads(INPUTS, LABELS, 100.0))
        sending = asyncio.create_task(traffic.send())
        try:
            traffic.set(rate, mode)
            await asyncio.sleep(seconds)
            (window,) = traffic.read(seconds)
            return window
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await runner.cleanup()

    return asyncio.run(main())


def test_answers_are_counted_by_reason_and_judged_by_their_label():
    def answer(body):
        assert body["inputs"][0]["shape"] == [1, 1, 2, 2]
        reply = {"outputs": [{"data": [9.0, 1.0, 0.0]}]}
        return web.json_response(reply, headers={"x-tandem-reason": "confident"})

    window = exchange(answer)
    assert set(window.routes) == {"confident"}
    assert len(window.latencies_ms) == window.routes["confident"] > 40
    # One label in three is the one that the endpoint always gives.
    assert abs(window.right - window.routes["confident"] / 3) <= 1


def test_a_refusal_is_shed_and_anything_else_has_failed():
    statuses = iter([503, 429, 504, 500, 404, 502] * 1_000)
    window = exchange(lambda body: web.Response(status=next(statuses)))
    counts = Counter(window.routes)
    assert set(counts) == {"shed", "failed"}
    assert abs(counts["shed"] - counts["failed"]) <= 3
    assert (window.latencies_ms, window.right) == ([], 0)


def test_the_teacher_alone_is_asked_with_a_deadline():
    asked = []

    def answer(body):
        asked.append(json.dumps(body["parameters"]))
        return web.Response(status=503)

    exchange(answer, mode="teacher")
    assert set(asked) == {'{"mode": "teacher", "deadline_ms": 100.0}'}


def test_an_ended_request_is_told_under_the_act_that_sent_it():
    traffic = Traffic("http://127.0.0.1:9/infer", payloads(INPUTS, LABELS, 100.0))
    traffic.set(0.0, "cascade", 3)
    traffic._ended += [Ended(2, 7.0, "pinned", True), Ended(3, 5.0, "confident", False), Ended(2, 1.0, "shed", False)]
    assert traffic.read(1.5) == [
        Window(1.5, 2, 1, [7.0], {"pinned": 1, "shed": 1}),
        Window(1.5, 3, 0, [5.0], {"confident": 1}),
    ]
    # The act that goes on is told of though nothing ended.
    assert traffic.read(2.0) == [Window(2.0, 3)]
