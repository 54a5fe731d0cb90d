"""Requests at planned moments, whether or not the earlier ones are answered: what users do, and closed loops hide."""

import asyncio
import random
from collections.abc import Awaitable, Callable


async def open_loop(ask: Callable[[], Awaitable[object]], rate: float, seconds: float, seed: int = 1) -> list[float]:
    """Seconds from each planned moment to its answer, infinite where it failed; arrivals are a Poisson process."""
    loop = asyncio.get_running_loop()
    draw = random.Random(seed)
    planned, at = [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        planned.append(at)
    start = loop.time()

    async def one(at: float) -> float:
        await asyncio.sleep(start + at - loop.time())
        try:
            await ask()
        except Exception:
            return float("inf")
        return loop.time() - start - at

    return list(await asyncio.gather(*map(one, planned)))


def quantile(latencies_s: list[float], share: float) -> float:
    return sorted(latencies_s)[min(len(latencies_s) - 1, int(share * len(latencies_s)))]
