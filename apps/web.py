"""The HTTP surface: paths, methods and status codes. What they mean is the Service's."""

import math
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from apps import openapi
from apps.body import read_body
from apps.metadata import model_config, model_metadata, server_metadata
from apps.pages import add_pages
from apps.protocol import ProtocolError, error_body
from apps.refusal import RefusedError
from apps.router import UnknownReleaseError
from apps.service import Reply, Service
from training.encoding import PayloadError

PLATFORM = "tandem_cascade"
STATUS_OF_REFUSAL = {"overload": 503, "unavailable": 503, "timeout": 504}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; `error` says what", **openapi.ERROR},
    404: {"description": "No such model or version", **openapi.ERROR},
    413: {"description": "The request is too large", **openapi.ERROR},
    503: {"description": "Overloaded or unavailable, and no fallback allowed", **openapi.ERROR},
    504: {"description": "Not in time, and no fallback allowed", **openapi.ERROR},
}


def build_app(service: Service) -> FastAPI:
    """The ASGI app of one Service."""
    app = FastAPI(title="Tandem", version=tandem_version(), docs_url=None, redoc_url=None)
    add_errors(app, service)
    add_health(app)
    add_metadata(app, service)
    add_inference(app, service)
    add_pages(app)
    return app


def tandem_version() -> str:
    try:
        return version("tandem-serve")
    except PackageNotFoundError:
        return "0+unknown"


def add_errors(app: FastAPI, service: Service) -> None:
    """Every failure is JSON with one field `error`, and counted where a model was asked."""

    def failed(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        started = getattr(request.state, "started", None)
        if started is not None:
            service.meter.record("", "", "", status, (time.perf_counter() - started) * 1e3)
        return Response(error_body(message), status, headers, "application/json")

    @app.exception_handler(ProtocolError)
    async def protocol(request: Request, error: ProtocolError) -> Response:
        return failed(request, error.status, str(error))

    @app.exception_handler(PayloadError)
    async def payload(request: Request, error: PayloadError) -> Response:
        return failed(request, 400, str(error))

    @app.exception_handler(UnknownReleaseError)
    async def release(request: Request, error: UnknownReleaseError) -> Response:
        return failed(request, 404, str(error))

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        status = STATUS_OF_REFUSAL[error.refused.reason]
        retry = {"Retry-After": str(max(1, math.ceil(error.refused.wait_s)))} if status == 503 else None
        return failed(request, status, error.refused.detail, retry)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return failed(request, 400, "the client went away before its request was read")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers) if error.headers else None
        return failed(request, error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}", headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        # Starlette logs it with its traceback; the client is not shown the inside of the server.
        return failed(request, 500, "an unforeseen error; the server's log has it")


def add_health(app: FastAPI) -> None:
    @app.get("/v2/health/live", tags=["health"], response_class=Response)
    async def live() -> Response:
        return Response()

    @app.get("/v2/health/ready", tags=["health"], response_class=Response)
    async def ready() -> Response:
        return Response()


def add_metadata(app: FastAPI, service: Service) -> None:
    """What is known without asking a model; under /versions/{v} for one Release."""

    @app.get("/v2", tags=["metadata"])
    async def server() -> Response:
        return _json(server_metadata(tandem_version()))

    async def model_ready(request: Request) -> Response:
        _release(request, service)
        return Response()

    async def metadata(request: Request) -> Response:
        release = _release(request, service)
        versions = service.versions if release is None else [str(release)]
        return _json(model_metadata(service.model, versions, PLATFORM, service.inputs, service.outputs))

    async def config(request: Request) -> Response:
        _release(request, service)
        return _json(model_config(service.model, PLATFORM, service.max_rows, service.inputs, service.outputs))

    add = partial(
        app.add_api_route, methods=["GET"], tags=["metadata"], response_class=Response, responses={404: _ERRORS[404]}
    )
    for suffix, endpoint in (("", metadata), ("/ready", model_ready), ("/config", config)):
        for prefix, extra in _model_paths():
            add(f"{prefix}{suffix}", endpoint, openapi_extra={"parameters": extra})

    async def about(request: Request) -> Response:
        _release(request, service)
        return _json(dict(service.about))

    async def models(request: Request) -> Response:
        return _json({"models": [dict(service.about)]})

    app.add_api_route("/v1/models", models, methods=["GET"], tags=["metadata"], response_class=Response)
    add("/v1/models/{model}", about, openapi_extra={"parameters": _path_parameters("model")})


def add_inference(app: FastAPI, service: Service) -> None:
    async def infer(request: Request) -> Response:
        request.state.started = time.perf_counter()
        release = _release(request, service)
        body = await read_body(request, service.max_body_bytes)
        return _response(await service.infer(body, request.headers, release))

    async def predict(request: Request) -> Response:
        request.state.started = time.perf_counter()
        _release(request, service)
        body = await read_body(request, service.max_body_bytes)
        return _response(await service.predict(body, request.headers))

    add = partial(app.add_api_route, methods=["POST"], tags=["inference"], response_class=Response)
    for prefix, extra in _model_paths():
        document = {**openapi.INFER, "parameters": [*extra, *openapi.INFER["parameters"]]}
        add(f"{prefix}/infer", infer, openapi_extra=document, responses={200: openapi.INFER_ANSWER, **_ERRORS})
    document = {**openapi.PREDICT, "parameters": [*_path_parameters("model"), *openapi.PREDICT["parameters"]]}
    answers = {200: openapi.PREDICT_ANSWER, **_ERRORS}
    add("/v1/models/{model}:predict", predict, openapi_extra=document, responses=answers)


def _model_paths() -> list[tuple[str, list[dict[str, Any]]]]:
    return [
        ("/v2/models/{model}", _path_parameters("model")),
        ("/v2/models/{model}/versions/{version}", _path_parameters("model", "version")),
    ]


def _path_parameters(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _release(request: Request, service: Service) -> int | None:
    """The Release that the path names, None for any; raises HTTPException 404 for a model or Release not served."""
    model = request.path_params["model"]
    if model != service.model:
        raise HTTPException(404, f"model {model[:80]!r} is not served here; {service.model!r} is")
    wanted = request.path_params.get("version")
    if wanted is None:
        return None
    if wanted not in service.versions:
        served = ", ".join(service.versions)
        raise HTTPException(404, f"version {wanted[:40]!r} of {model!r} is not served; served are {served}")
    return int(wanted)


def _response(reply: Reply) -> Response:
    return Response(reply.body, 200, dict(reply.headers))


def _json(data: dict[str, Any]) -> Response:
    return Response(orjson.dumps(data), media_type="application/json")
