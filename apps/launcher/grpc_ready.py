"""Whether an endpoint answers over gRPC."""

from apps.launcher.ports import LOOPBACK

TIMEOUT_S = 2.0


def grpc_is_ready(port: int) -> bool:
    """Whether `ServerReady` says so, or an endpoint that wants a key refuses to say.

    A port that is open tells nothing: HAProxy keeps it from one application to the next, and what asks in between is
    answered by Ray's own proxy, which knows no model.
    """
    import grpc  # type: ignore[import-untyped]

    from apps.protocol import grpc_protocol_pb2 as pb
    from apps.protocol.grpc_door import SERVICE_NAME

    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(
            f"/{SERVICE_NAME}/ServerReady",
            request_serializer=pb.ServerReadyRequest.SerializeToString,
            response_deserializer=pb.ServerReadyResponse.FromString,
        )
        try:
            return bool(ask(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            return code is grpc.StatusCode.UNAUTHENTICATED
