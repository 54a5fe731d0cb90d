"""A closed-loop HTTP client in plain asyncio, for machines without wrk: ADDRESS POSTS.json CONNECTIONS SECONDS."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT_S = 10.0


def main() -> None:
    address, plan, connections, seconds = sys.argv[1:5]
    path, headers, bodies = json.loads(Path(plan).read_text())
    requests = [_request(address, path, headers, bytes.fromhex(body)) for body in bodies]
    print(json.dumps(asyncio.run(_load(address, requests, int(connections), float(seconds)))))


def _request(address: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {address}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _load(address: str, requests: Sequence[bytes], connections: int, seconds: float) -> dict[str, float]:
    latencies_ms: list[float] = []
    failures: list[str] = []
    started = time.perf_counter()
    until = started + seconds

    async def worker(first: int) -> None:
        host, _, port = address.rpartition(":")
        turn = first
        while time.perf_counter() < until:
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
                while time.perf_counter() < until:
                    sent = time.perf_counter()
                    writer.write(requests[turn % len(requests)])
                    status = await asyncio.wait_for(_answer(reader), _TIMEOUT_S)
                    latencies_ms.append((time.perf_counter() - sent) * 1e3)
                    turn += 1
                    if status >= 400:
                        failures.append(str(status))
                writer.close()
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                failures.append(repr(error))

    await asyncio.gather(*(worker(number) for number in range(connections)))
    took_s = time.perf_counter() - started
    ordered = sorted(latencies_ms) or [float("nan")]

    def quantile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    quantiles = {f"p{percent}_ms": quantile(percent / 100) for percent in (50, 95, 99)}
    counts = {"requests": len(latencies_ms), "seconds": took_s, "failed": len(failures)}
    return {**counts, **quantiles, "max_ms": ordered[-1]}


async def _answer(reader: asyncio.StreamReader) -> int:
    """Read one answer and return its status; raises ValueError on one without a length."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, found, rest = head.partition(b"content-length:")
    if not found:
        raise ValueError("an answer without Content-Length: this client cannot read it; install wrk")
    await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    return int(head.split(b" ", 2)[1])


if __name__ == "__main__":
    main()
