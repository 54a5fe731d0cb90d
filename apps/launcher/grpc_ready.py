"""Whether an endpoint answers over gRPC."""

from apps.launcher.ports import LOOPBACK

TIMEOUT_S = 2.0
_METHOD = "/inference.GRPCInferenceService/ServerReady"
# Field 1 of a ServerReadyResponse, true.
_READY = b"\x08\x01"


def grpc_is_ready(port: int) -> bool:
    """Whether `ServerReady` says so, or an endpoint that wants a key refuses to say.

    A port that is open tells nothing: HAProxy keeps it from one application to the next, and what asks in between is
    answered by Ray's own proxy, which knows no model.
    """
    import grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(_METHOD)
        try:
            return bool(ask(b"", timeout=TIMEOUT_S) == _READY)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            return code is grpc.StatusCode.UNAUTHENTICATED
