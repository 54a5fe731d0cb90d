"""On which network interfaces Ray Serve's own gRPC servers listen.

Ray Serve binds them to all of them and unpickles what arrives, without authentication: whoever reaches such a port can
run code. No setting changes that, so the two functions that open the ports are replaced, inside replicas and proxies,
where the cluster spans no other machine. Models call `keep_to_loopback` themselves; ingress replicas and proxies call
`middlewares`, which RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names.
"""

import functools
import logging
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

logger = logging.getLogger("ray.serve")


def keep_to_loopback(node_ip: str | None = None) -> None:
    """Let the gRPC servers that this process will open listen on `node_ip`, its node's, if that is loopback."""
    if node_ip is None:
        import ray

        node_ip = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if not ip_address(node_ip).is_loopback:
        return
    from ray.serve._private import default_impl, replica

    for module, name in ((replica, "add_port_to_grpc_server"), (default_impl, "add_grpc_address")):
        opener = getattr(module, name, None)
        if opener is None:
            logger.warning("this Ray has no %s.%s: its gRPC port is open to the network", module.__name__, name)
        else:
            setattr(module, name, bound_to(node_ip, opener))


def bound_to(host: str, opener: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """`opener` with `host` in the place of the address that means every interface."""

    @functools.wraps(opener)
    def open_port(server: Any, address: str) -> Any:
        return opener(server, address.replace("[::]", host).replace("0.0.0.0", host))

    return open_port


def middlewares() -> list[Any]:
    """What Serve calls before it opens an HTTP server's ports; there is no middleware to add."""
    keep_to_loopback()
    return []
