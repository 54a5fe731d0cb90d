"""Ingress: the Serve deployment that answers clients, with the Routers and, if small, the students inside it."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from apps.args import AppArgs
from apps.assembly import Part, assemble_model
from apps.endpoint import Endpoint
from apps.front import Front
from apps.load import sample_row
from apps.model import STUCK_S
from apps.refusal import RefusedError
from apps.router import Arm
from apps.web import build_app
from training.encoding import Array

logger = logging.getLogger("ray.serve")

# A first call through a handle finds the replicas; no request should pay for that.
FIRST_CALL_TIMEOUT_S = 60.0


@serve.ingress()
class Ingress:
    def __init__(self, args: AppArgs, parts: Sequence[Part], *handles: DeploymentHandle[Any]) -> None:
        """`handles` are, for each part in turn, those that `assemble_model` takes."""
        rest = iter(handles)
        models = [assemble_model(part, rest) for part in parts]
        self._batchers = [batcher for model in models for batcher in model.batchers]
        self._endpoint = Endpoint({model.service.model: model.service for model in models}, args.max_body_bytes)

    async def __serve_build_asgi_app__(self) -> Front:
        self._first_calls = [
            asyncio.create_task(_first_call(arm, sample_row(service.encoder.encoding)))
            for service in self._endpoint.services.values()
            for arm in service.router.arms
        ]
        return build_app(self._endpoint)

    def check_health(self) -> None:
        longest_s = max((batcher.busy_s for batcher in self._batchers), default=0.0)
        if longest_s > STUCK_S:
            raise RuntimeError(f"a call of the student has been running for {longest_s:.0f} s")


async def _first_call(arm: Arm, row: Array) -> None:
    try:
        await arm.teacher.insist(row[None], FIRST_CALL_TIMEOUT_S)
    except RefusedError as error:
        logger.warning("the teacher of release %d does not answer yet: %s", arm.number, error)
