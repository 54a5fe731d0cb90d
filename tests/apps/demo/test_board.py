"""Whoever opens the page is told all of it."""

import asyncio
import json

import aiohttp

from apps.demo.board import Board


def with_board(scenario):
    async def main():
        board = Board()
        await board.start(0)
        try:
            async with aiohttp.ClientSession(trust_env=False) as session, asyncio.timeout(10):
                return await scenario(board, session)
        finally:
            await board.stop()

    return asyncio.run(main())


def test_a_late_listener_hears_what_was_before_and_what_comes():
    async def scenario(board, session):
        board.publish("facts", text="before")
        async with session.get(f"{board.url}/events") as response:
            assert response.content_type == "text/event-stream"
            board.publish("sample", at_s=1.0)
            lines = [await response.content.readline() for _ in range(4)]
        return [json.loads(line.removeprefix(b"data: ")) for line in lines if line.strip()]

    assert with_board(scenario) == [{"kind": "facts", "text": "before"}, {"kind": "sample", "at_s": 1.0}]


def test_a_still_page_holds_what_was_published_and_nothing_ends_its_script():
    async def scenario(board, session):
        board.publish("facts", text="</script><b>")
        async with session.get(f"{board.url}/?still") as still, session.get(f"{board.url}/") as live:
            return await still.text(), await live.text()

    still, live = with_board(scenario)
    assert 'window.HISTORY = [{"kind": "facts"' in still
    assert "</script><b>" not in still
    assert "HISTORY = [" not in live


def test_the_page_loads_nothing_from_elsewhere():
    async def scenario(board, session):
        texts = []
        for path in ("/", "/static/demo.css", "/static/demo.js"):
            async with session.get(board.url + path) as response:
                assert response.status == 200
                texts.append(await response.text())
        return "".join(texts)

    found = with_board(scenario).replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in found
    assert "https://" not in found
