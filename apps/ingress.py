"""Ingress: the Serve deployment that answers clients, with the Routers and, if small, the students inside it."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from apps.access.check import open_access
from apps.args import AppArgs
from apps.assembly import Office, Part, assemble_model
from apps.endpoint import Endpoint
from apps.flags import missing_flags
from apps.http_server import improve_http_server
from apps.interpreter import settle
from apps.model import STUCK_S
from apps.observe.exporter import Exporter, RaySink
from apps.observe.request_log import open_request_log
from apps.observe.tracing import open_tracing
from apps.protocol.grpc_methods import GrpcMethods
from apps.protocol.grpc_servicer import Servicer
from apps.scaling_signals import LoopSignals
from apps.web import build_app

logger = logging.getLogger("ray.serve")


@serve.ingress()
class Ingress(GrpcMethods):
    def __init__(self, args: AppArgs, parts: Sequence[Part], *handles: DeploymentHandle[Any]) -> None:
        """`handles` are, for each part in turn, those that `assemble_model` takes."""
        for line in missing_flags(os.environ):
            logger.warning("this endpoint would be faster or safer: %s", line)
        replica = serve.get_replica_context().replica_id.unique_id
        self._office = Office(
            Exporter(RaySink()), open_request_log(args.access_log, replica), open_tracing(args.trace, "Ingress")
        )
        rest = iter(handles)
        models = [assemble_model(part, rest, self._office) for part in parts]
        self._wakers = [waker for model in models for waker in model.wakers]
        self._batchers = [batcher for model in models for batcher in model.batchers]
        self._endpoint = Endpoint({model.service.model: model.service for model in models}, args.max_body_bytes)
        self._access = open_access(args.access)
        self._signals = LoopSignals()
        improve_http_server()
        self.grpc = Servicer(self._endpoint, self._access)
        self._office.exporter.start()
        settle()

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        # A first call through a handle finds the replicas; no request should pay for that.
        for waker in self._wakers:
            waker.wake()
        return build_app(self._endpoint, self._access)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._signals.read()

    def check_health(self) -> None:
        longest_s = max((batcher.busy_s for batcher in self._batchers), default=0.0)
        if longest_s > STUCK_S:
            raise RuntimeError(f"a call of the student has been running for {longest_s:.0f} s")
