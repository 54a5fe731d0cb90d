"""The compared servers: how each is installed, started and asked, and the settings that it was given.

In `command`, `files` and `env` stand {python} and {bin} (of the server's environment), {libraries} (of that Python),
{model}, {folder}, {port} and {port_1} to {port_3}.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtests.peers.wire import V2, Base64, Raw, Wire

SERVERS = "loadtests.peers.servers"
# What Tandem sets where it starts Ray, as far as it changes speed: its apps/flags.py says why.
RAY_FLAGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response junk-response",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
# Files and ports that no other cluster of this machine shares.
_HAPROXY_PLACES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{folder}/haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "{folder}/admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "{folder}/stats.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{folder}",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{folder}/server-state",
    "RAY_SERVE_HAPROXY_METRICS_PORT": "{port_1}",
    "RAY_SERVE_HAPROXY_STATS_PORT": "{port_2}",
}
_V2_PATH = "/v2/models/model/infer"
# MLServer's REST knows no binary tensors.
_MLSERVER_WIRES: dict[str, Wire] = {
    "image": V2(_V2_PATH, "base64"),
    "json": V2(_V2_PATH, "json"),
    "batch": V2(_V2_PATH, "base64"),
}
_V2_WIRES: dict[str, Wire] = {"image": V2(_V2_PATH), "json": V2(_V2_PATH, "json"), "batch": V2(_V2_PATH)}


@dataclass(frozen=True)
class Kind:
    """One kind of request."""

    rows: int
    title: str


KINDS = {
    "image": Kind(1, "one image a request"),
    "json": Kind(1, "one image a request, V2 JSON"),
    "batch": Kind(32, "32 images a request, V2"),
}


@dataclass(frozen=True)
class Peer:
    """`package` names the server's own environment and its distribution, None where the project's serves."""

    name: str
    title: str
    command: tuple[str, ...]
    wires: Mapping[str, Wire]
    settings: str
    package: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = 120.0

    @property
    def has_model(self) -> bool:
        """Whether its answers are the model's."""
        return "echo" not in self.name


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return ("{python}", "-m", f"{SERVERS}.{name}", *arguments)


def _ray(app: str) -> tuple[str, ...]:
    return _module("ray_serve", f"--app={app}", "--model={model}", "--port={port}", "--dashboard-port={port_3}")


_MLSERVER_SETTINGS = {
    "debug": False,
    "host": "127.0.0.1",
    "http_port": "{port}",
    "grpc_port": "{port_1}",
    "metrics_port": "{port_2}",
    "parallel_workers": 0,
}
_MLSERVER_MODEL = {
    "name": "model",
    "implementation": f"{SERVERS}.mlserver.Model",
    "max_batch_size": 32,
    "max_batch_time": 0.002,
    "parameters": {"uri": "{model}"},
}

_TANDEM_CONFIG = {
    "applications": [
        {
            "name": "tandem",
            "import_path": "apps.graph:build",
            "logging_config": {"enable_access_log": False},
            "deployments": [{"name": name, "num_replicas": 1} for name in ("Ingress", "Teacher")],
        }
    ]
}

PEERS = (
    Peer(
        "tandem",
        "Tandem",
        (
            *("{python}", "-m", "apps.launcher.serve_onnx", "{model}"),
            *("--port={port}", "--name=model", "--config={folder}/serve_config.json"),
        ),
        _V2_WIRES,
        "one ingress replica with the student inside, batches of at most 32 rows, no autoscaling; "
        "HAProxy and throughput mode",
        files={"serve_config.json": json.dumps(_TANDEM_CONFIG)},
        start_timeout_s=240.0,
    ),
    Peer(
        "ray-echo",
        "Ray Serve, bare echo, Tandem's flags",
        _ray("echo"),
        {"image": Raw()},
        "one replica, a bare ASGI app that reads the body and answers 40 bytes; HAProxy and throughput mode",
        env={**RAY_FLAGS, **_HAPROXY_PLACES},
    ),
    Peer(
        "ray-flags",
        "Ray Serve, ingress and model, Tandem's flags",
        _ray("model"),
        {"image": Raw()},
        "two deployments of one replica, @serve.batch(32, 2 ms), model in a thread; HAProxy and throughput mode",
        env={**RAY_FLAGS, **_HAPROXY_PLACES},
    ),
    Peer(
        "ray-stock",
        "Ray Serve, ingress and model, as shipped",
        _ray("model"),
        {"image": Raw()},
        "two deployments of one replica, @serve.batch(32, 2 ms), model in a thread; no flags",
    ),
    Peer(
        "litserve",
        "LitServe",
        _module("litserve", "--model={model}", "--port={port}"),
        {"image": Raw("/predict")},
        "max_batch_size 32, batch_timeout 2 ms, one worker, one API server, fast_queue",
        package="litserve",
    ),
    Peer(
        "mlserver",
        "MLServer",
        ("{bin}/mlserver", "start", "{folder}"),
        _MLSERVER_WIRES,
        "custom runtime, max_batch_size 32, max_batch_time 2 ms, parallel_workers 0 (the model in the server itself)",
        package="mlserver",
        files={
            # Ports are numbers: the quotes round their places go.
            "settings.json": json.dumps(_MLSERVER_SETTINGS).replace('"{port', "{port").replace('}"', "}"),
            "model-settings.json": json.dumps(_MLSERVER_MODEL),
        },
    ),
    Peer(
        "bentoml",
        "BentoML",
        ("{bin}/bentoml", "serve", f"{SERVERS}.bento:Classifier", "--host=127.0.0.1", "--port={port}"),
        {"image": Base64("/predict")},
        "one worker, batchable API, max_batch_size 32, max_latency_ms 1000 (its batcher learns the wait), "
        "no access log, no metrics",
        package="bentoml",
        env={"PEER_MODEL": "{model}", "BENTOML_HOME": "{folder}", "BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "pytriton",
        "Triton, Python backend (pytriton)",
        _module("pytriton", "--model={model}", "--port={port}"),
        _V2_WIRES,
        "max_batch_size 32, dynamic batcher with a queue delay of 1 ms, one instance",
        package="pytriton",
        # Triton loads libpython by itself: it has to be that of the environment's own Python.
        env={"PYTRITON_HOME": "{folder}", "LD_LIBRARY_PATH": "{libraries}"},
    ),
    Peer(
        "mosec",
        "mosec",
        _module("mosec", "--address=127.0.0.1", "--port={port}", "--path={folder}/sockets", "--log-level=warning"),
        {"image": Raw("/inference")},
        "one worker, max_batch_size 32, max_wait_time 2 ms",
        package="mosec",
        env={"PEER_MODEL": "{model}"},
    ),
)


def peer(name: str) -> Peer:
    """Raises ValueError naming those that there are."""
    found = next((item for item in PEERS if item.name == name), None)
    if found is None:
        raise ValueError(f"no server {name!r} is known: choose from {', '.join(item.name for item in PEERS)}")
    return found
