"""Door: how Ray Serve's gRPC servers take GRPCInferenceService in.

`grpc_options.grpc_servicer_functions` in serve_config.yaml names this module's `add_service`. A call's deadline does
not reach a deployment, so the door writes what is left of it into the call's metadata.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc  # type: ignore[import-untyped]

from apps.protocol import grpc_protocol_pb2 as pb

SERVICE_NAME = "inference.GRPCInferenceService"
REMAINING_METADATA = "x-tandem-remaining-seconds"

# Longer than any request may take: it sets no limit.
_ENDLESS_S = 3600.0

Handler = Callable[[Any, Any], Awaitable[Any]]


def add_service(servicer: Any, server: Any) -> None:
    """Add the service to `server`; of `servicer` the methods by the names of the RPCs are called."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            request_deserializer=_class_of(method.input_type).FromString,
            response_serializer=_class_of(method.output_type).SerializeToString,
        )
        for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    }
    # Ray Serve replaces each handler by what its factory makes, so it is the factory that is watched.
    factory = getattr(server, "service_handler_factory", None)
    if factory is not None:
        server.service_handler_factory = lambda *kinds, **named: _watched(factory(*kinds, **named))
    try:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
    finally:
        if factory is not None:
            server.service_handler_factory = factory


def _class_of(descriptor: Any) -> Any:
    return getattr(pb, descriptor.name)


def _watched(handler: Handler) -> Handler:
    async def answer(request: Any, context: Any) -> Any:
        return await handler(request, DeadlineContext(context))

    return answer


class DeadlineContext:
    """A call's context whose metadata says what is left of its deadline; all else is the context's own."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        given = tuple(pair for pair in self._context.invocation_metadata() or () if pair[0] != REMAINING_METADATA)
        remaining_s = self._context.time_remaining()
        if remaining_s is None or remaining_s > _ENDLESS_S:
            return given
        return (*given, (REMAINING_METADATA, f"{max(remaining_s, 1e-3):.4f}"))
