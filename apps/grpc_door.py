"""Door: how Ray Serve's gRPC servers take GRPCInferenceService in.

`grpc_options.grpc_servicer_functions` in serve_config.yaml names one of the two functions here. Ray Serve binds every
gRPC server to all interfaces and has no setting for that, so `add_to_loopback` turns away who is not on this machine.

A call's deadline does not reach a deployment: the door writes what is left of it into the metadata.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc  # type: ignore[import-untyped]

from apps import grpc_protocol_pb2 as pb

SERVICE_NAME = "inference.GRPCInferenceService"
REMAINING_METADATA = "x-tandem-remaining-seconds"
# Of a peer as gRPC writes it.
LOOPBACK_PEERS = ("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", "unix:")

# Longer than any request may take: it sets no limit.
_ENDLESS_S = 3600.0

Handler = Callable[[Any, Any], Awaitable[Any]]


def add_to_loopback(servicer: Any, server: Any) -> None:
    """Add the service for clients on this machine alone."""
    _add(servicer, server, loopback_only=True)


def add_to_any(servicer: Any, server: Any) -> None:
    """Add the service for clients anywhere: for a cluster whose network says who may connect."""
    _add(servicer, server, loopback_only=False)


def _add(servicer: Any, server: Any, loopback_only: bool) -> None:
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
        server.service_handler_factory = lambda **kinds: _watched(factory(**kinds), loopback_only)
    try:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
    finally:
        if factory is not None:
            server.service_handler_factory = factory


def _class_of(descriptor: Any) -> Any:
    return getattr(pb, descriptor.name)


def _watched(handler: Handler, loopback_only: bool) -> Handler:
    async def answer(request: Any, context: Any) -> Any:
        if loopback_only and not context.peer().startswith(LOOPBACK_PEERS):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "this endpoint answers clients on its own machine; apps.grpc_door:add_to_any opens it to others",
            )
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
