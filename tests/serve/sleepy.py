"""Models that sleep, behind the real deployment class, and a driver that stands where the ingress does."""

import asyncio
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

from apps.backends.backend import ONE_BY_ONE, HandleBackend
from apps.batching.batcher import Batcher, BatchLimits
from apps.load import Batching
from apps.model import Model
from apps.refusal import RefusedError
from apps.scaling_signals import ModelSignals
from tests.apps.open_loop import open_loop

MODEL_S = 0.100
FAILED_S = 1e6
ROW = np.zeros((1, 4), np.float32)


def sleep(batch: NDArray[Any]) -> NDArray[np.float32]:
    time.sleep(MODEL_S)
    return np.zeros((len(batch), 2), np.float32)


class Sleepy(Model):
    def __init__(self, batching: Batching, max_batch_rows: int) -> None:
        batcher = Batcher(sleep, BatchLimits(max_batch_rows, 4_096))
        batcher.warm_up(ROW[0])
        self._stand_on(batcher, batching, max_batch_rows)
        self._signals = ModelSignals(batcher, batcher.call_s, max_batch_rows)

    def queue_rows(self) -> int:
        return self._batcher.queue_rows


class Driver:
    """`wide` runs 64 rows at once and `narrow` one, as `timed` does 64 in Serve's own batches."""

    def __init__(
        self, wide: DeploymentHandle[Any], narrow: DeploymentHandle[Any], timed: DeploymentHandle[Any]
    ) -> None:
        self._backends = {
            "wide": HandleBackend(wide, 2),
            "narrow": HandleBackend(narrow, 2),
            "timed": HandleBackend(timed, 2, ONE_BY_ONE),
        }
        self._narrow = narrow

    async def __call__(self, request: Request) -> Any:
        query = request.query_params
        if request.url.path.endswith("/ready"):
            return "ok"
        backend = self._backends[query["model"]]
        if request.url.path.endswith("/load"):
            await backend.infer(ROW, 30.0)
            ask = lambda: backend.infer(ROW, float(query["timeout_s"]))  # noqa: E731
            latencies_s = await open_loop(ask, float(query["rate"]), float(query["seconds"]))
            return [min(latency_s, FAILED_S) for latency_s in latencies_s]  # JSON knows no infinity
        if request.url.path.endswith("/together"):
            return await self._together(backend, int(query["count"]), float(query["timeout_s"]))
        return await self._leave(backend)

    async def _together(self, backend: HandleBackend, count: int, timeout_s: float) -> list[tuple[str, float]]:
        """What becomes of `count` requests at once, and when."""
        await backend.infer(ROW, 30.0)

        async def one() -> tuple[str, float]:
            started = time.perf_counter()
            try:
                await backend.infer(ROW, timeout_s)
            except RefusedError as error:
                return error.refused.reason, time.perf_counter() - started
            return "answered", time.perf_counter() - started

        return await asyncio.gather(*(one() for _ in range(count)))

    async def _leave(self, backend: HandleBackend) -> list[int]:
        """Rows that wait at `narrow` while ten requests are under way, and after they were cancelled."""
        await backend.infer(ROW, 30.0)
        tasks = [asyncio.ensure_future(backend.infer(ROW, 30.0)) for _ in range(10)]
        await asyncio.sleep(MODEL_S * 1.5)
        before = await self._narrow.queue_rows.remote()
        for task in tasks:
            task.cancel()
        await asyncio.sleep(MODEL_S)
        return [before, await self._narrow.queue_rows.remote()]


def build(args: dict[str, str]) -> serve.Application:
    options: dict[str, Any] = {"max_ongoing_requests": 4_096, "ray_actor_options": {"num_cpus": 0.2}}
    models = [
        serve.deployment(name=name, **options)(Sleepy).bind(batching, rows)
        for name, batching, rows in (("Wide", "tandem", 64), ("Narrow", "tandem", 1), ("Timed", "ray", 64))
    ]
    return serve.deployment(name="Driver", **options)(Driver).bind(*models)
