"""Ray Serve as its documentation shows it: a bare echo, or an ingress before a batching model.

The flags of the environment (HAProxy, throughput mode) are the caller's; nothing here depends on them.
"""

import argparse
import asyncio
import signal
import sys
from typing import Any

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from loadtests.peers.servers.session import image_of, open_session, run

OPTIONS: dict[str, Any] = {
    "max_ongoing_requests": 1024,
    "ray_actor_options": {"num_cpus": 0.3},
    "logging_config": {"enable_access_log": False},
}
ANSWER = np.zeros(10, np.float32).tobytes()


class EchoApp:
    """Reads a request's body and answers as many bytes as the model would: what the transport alone costs."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body", False):
            pass
        headers = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(ANSWER))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})


@serve.deployment(**OPTIONS)
@serve.ingress()
class Echo:
    async def __serve_build_asgi_app__(self) -> EchoApp:
        return EchoApp()


@serve.deployment(**OPTIONS)
class Model:
    def __init__(self, model: str) -> None:
        self._session = open_session(model)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def predict(self, bodies: list[bytes]) -> list[bytes]:
        images_BCHW = np.stack([image_of(body) for body in bodies])
        return [row.tobytes() for row in await asyncio.to_thread(run, self._session, images_BCHW)]


@serve.deployment(**OPTIONS)
class Ingress:
    def __init__(self, model: DeploymentHandle[Any]) -> None:
        self._model = model

    async def __call__(self, request: Request) -> Response:
        answer = await self._model.predict.remote(await request.body())
        return Response(answer, media_type="application/octet-stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--app", choices=("echo", "model"), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dashboard-port", type=int, required=True)
    arguments = parser.parse_args()
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        # Tandem is deployed through the dashboard, whose agents take part of the machine: here they run as well.
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=arguments.dashboard_port,
        object_store_memory=150_000_000,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": arguments.port})
    # Serve's decorators give deployments, which type checkers take for the classes that they were.
    echo: Any = Echo
    ingress: Any = Ingress
    model: Any = Model
    serve.run(echo.bind() if arguments.app == "echo" else ingress.bind(model.bind(arguments.model)))
    # Ray has put a handler of its own in place meanwhile.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()


if __name__ == "__main__":
    main()
