"""The environment under which Ray Serve is to run for Tandem, each setting with its reason.

Ray reads them when its processes start, so they belong into the environment of `ray start` on every machine; replicas
inherit them from there. `make up` sets them, and so does `eval "$(python -m apps.flags)"` before `ray start`, as in
cluster.yaml and deploy/. What a user set stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Flag:
    """`essential`: without it an endpoint is slower or loses requests, so a replica says so when it starts."""

    name: str
    value: str
    reason: str
    essential: bool = False


FLAGS = (
    Flag(
        "RAY_SERVE_ENABLE_HA_PROXY",
        "1",
        "HAProxy hands a request straight to an ingress replica; Ray's own proxy, a hop in Python, halves throughput",
        essential=True,
    ),
    Flag(
        "RAY_SERVE_THROUGHPUT_OPTIMIZED",
        "1",
        "no thread hop inside a replica and gRPC between replicas; the models run in threads of their own",
        essential=True,
    ),
    Flag(
        "RAY_SERVE_HAPROXY_RETRY_ON",
        "conn-failure empty-response junk-response",
        "a request whose replica dies under it goes to another one; by default only a refused connection does. "
        "Inference may be repeated",
        essential=True,
    ),
    Flag(
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT",
        "1",
        "a replica that refuses a connection is gone, and the next attempt goes elsewhere. A client's idle connection "
        "belongs to the HAProxy of before an update, which knows none but gone replicas: past them is Ray's own proxy",
        essential=True,
    ),
    Flag(
        "RAY_SERVE_HAPROXY_RETRIES",
        "8",
        "attempts enough to pass as many gone replicas; the default is 3",
    ),
    Flag(
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
        "5",
        "a replica that leaves answers on until HAProxy has a configuration without it, which takes about a second; "
        "the default of 30 s makes every update that slow",
    ),
    Flag(
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH",
        str(64 * 1024 * 1024),
        "a batch goes to the teacher as one gRPC message; the default of 4 MB is no more than 27 images of 224x224",
    ),
    Flag(
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE",
        str(16 * 1024 * 1024),
        "a client's gRPC message is read whole before it can be refused; the default is 2 GiB",
    ),
    Flag(
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S",
        "60",
        "a HAProxy that a reload replaced goes with its last connection, after this at the latest: longer than any "
        "request may take, short enough that autoscaling does not pile them up",
    ),
    Flag(
        "RAY_SERVE_PORT_QUARANTINE_S",
        "90",
        "a replaced HAProxy may still know a gone replica's port: no other replica gets it until that HAProxy is gone",
    ),
    Flag(
        "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S",
        "2",
        "a machine that does not answer is given up after this and another replica is tried",
    ),
    Flag(
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S",
        "120",
        "no client waits for ever on a replica that hangs; far above any deadline",
    ),
    Flag(
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S",
        "120",
        "a client that says nothing does not hold a connection for the default of an hour",
    ),
    Flag(
        "RAY_worker_niceness",
        "0",
        "else replicas and HAProxy run at niceness 15, behind all else on the machine; training lowers itself",
    ),
    Flag(
        "RAY_SERVE_HAPROXY_METRICS_ENABLED",
        "0",
        "else HAProxy sends a line a request to a process that parses it in Python; the endpoint counts by itself",
    ),
    Flag(
        "RAY_SERVE_HAPROXY_NBTHREAD",
        "1",
        "one thread forwards more small requests a second than ten replicas answer; more of them take turns with the "
        "replicas on few cores, and each keeps connections of its own to them. Raise it for TLS and many replicas",
    ),
)


def serve_environment() -> dict[str, str]:
    return {flag.name: flag.value for flag in FLAGS}


def missing_flags(environ: Mapping[str, str]) -> list[str]:
    """One line for each essential flag that `environ` does not set as it should be, ready for a log."""
    return [
        f"{flag.name} is {environ.get(flag.name, 'not set')}, should be {flag.value!r} where Ray starts: {flag.reason}"
        for flag in FLAGS
        if flag.essential and environ.get(flag.name) != flag.value
    ]


def shell_lines() -> str:
    """`export` lines for the shell that runs `ray start`; what its environment already sets wins."""
    wrapper = Path(__file__).resolve().with_name("launcher") / "haproxy.py"
    settings = {**serve_environment(), "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper)}
    return "".join(f'export {name}="${{{name}:-{value}}}"\n' for name, value in settings.items())


if __name__ == "__main__":
    print(shell_lines(), end="")
