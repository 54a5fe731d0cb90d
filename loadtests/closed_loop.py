"""Closed loop: so many clients that each wait for their answer before they send again, to find what a server can do."""

import asyncio
from collections.abc import Sequence
from time import perf_counter

from loadtests.open_loop import Outcome, open_transport
from loadtests.payloads import InferRequest
from loadtests.transports import TransportError


def run_closed_loop(
    url: str, requests: Sequence[InferRequest], clients: int, duration_s: float, timeout_s: float = 10.0
) -> list[Outcome]:
    """Requests that were sent within `duration_s`, each `scheduled` when its client was free to send it."""
    if clients < 1 or not duration_s > 0:
        raise ValueError(f"{clients} clients for {duration_s} s: give at least one client and a time above 0")

    async def main() -> list[Outcome]:
        transport = open_transport(url, timeout_s)
        began = perf_counter()
        outcomes: list[Outcome] = []

        async def client() -> None:
            while (now_s := perf_counter() - began) < duration_s:
                outcome = Outcome(now_s, requests[len(outcomes) % len(requests)], sent_s=now_s)
                outcomes.append(outcome)
                try:
                    outcome.reply = await transport.send(outcome.request)
                    outcome.done_s = perf_counter() - began
                except TransportError as error:
                    outcome.failure = str(error)

        try:
            await asyncio.gather(*(client() for _ in range(clients)))
        finally:
            await transport.close()
        return outcomes

    return asyncio.run(main())


def answered_per_s(outcomes: Sequence[Outcome]) -> float:
    """Good answers a second, from the first to the last; 0 where there are fewer than two."""
    done_s = sorted(
        outcome.done_s
        for outcome in outcomes
        if outcome.done_s is not None and outcome.reply is not None and 200 <= outcome.reply.status < 300
    )
    return (len(done_s) - 1) / (done_s[-1] - done_s[0]) if len(done_s) > 1 else 0.0
