"""The HTTP surface: paths, methods and status codes. What they mean is the Service's."""

import asyncio
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from apps.access.check import Access
from apps.access.gate import AccessGate
from apps.body import read_body
from apps.endpoint import Endpoint
from apps.errors import EXPECTED, Failure, failure_of
from apps.front import GONE, Front
from apps.observe.account import Account
from apps.pages import add_pages
from apps.protocol import openapi
from apps.protocol.metadata import model_config, model_metadata, server_metadata
from apps.protocol.rest import error_body
from apps.service import Reply, Service

PLATFORM = "tandem_cascade"
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; `error` says what", **openapi.ERROR},
    404: {"description": "No such model or version", **openapi.ERROR},
    401: {"description": "The endpoint asks for an API key", **openapi.ERROR},
    403: {"description": "The API key is not for this model", **openapi.ERROR},
    413: {"description": "The request is too large", **openapi.ERROR},
    415: {"description": "The body is compressed", **openapi.ERROR},
    429: {"description": "The API key's rate is used up; `Retry-After` says when to ask again", **openapi.ERROR},
    503: {"description": "Overloaded or unavailable, and no fallback allowed", **openapi.ERROR},
    504: {"description": "Not in time, and no fallback allowed", **openapi.ERROR},
}


def build_app(endpoint: Endpoint, access: Access | None = None) -> ASGIApp:
    """The ASGI app of an endpoint; `access` None lets everybody in."""
    app = FastAPI(title="Tandem", version=tandem_version(), docs_url=None, redoc_url=None)
    add_errors(app)
    add_health(app)
    add_metadata(app, endpoint)
    add_inference(app, endpoint)
    add_pages(app)
    front = Front(endpoint, app)
    return front if access is None else AccessGate(front, access)


def tandem_version() -> str:
    try:
        return version("tandem-serve")
    except PackageNotFoundError:
        return "0+unknown"


def add_errors(app: FastAPI) -> None:
    """Every failure is JSON with one field `error`, and counted where a model was asked."""

    async def failed(request: Request, error: Exception) -> Response:
        # What is unforeseen Starlette logs with its traceback.
        return _failure(request, failure_of(error))

    for expected in (*EXPECTED, Exception):
        app.exception_handler(expected)(failed)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return _failure(request, Failure(400, "the client went away before its request was read"))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return _failure(request, Failure(error.status_code, message, dict(error.headers or {})))


def _failure(request: Request, failure: Failure) -> Response:
    account = getattr(request.state, "account", None)
    if account is not None:
        account.failed(failure.status)
    return Response(error_body(failure.message), failure.status, failure.headers, "application/json")


def add_health(app: FastAPI) -> None:
    @app.get("/v2/health/live", tags=["health"], response_class=Response)
    async def live() -> Response:
        # Triton's clients look at the status alone, kserve's read the body.
        return _json({"live": True})

    @app.get("/v2/health/ready", tags=["health"], response_class=Response)
    async def ready() -> Response:
        return _json({"ready": True})


def add_metadata(app: FastAPI, endpoint: Endpoint) -> None:
    """What is known without asking a model; under /versions/{v} for one Release."""

    @app.get("/v2", tags=["metadata"])
    async def server() -> Response:
        return _json(server_metadata(tandem_version()))

    async def model_ready(request: Request) -> Response:
        service, _ = _find(request, endpoint)
        return _json({"name": service.model, "ready": True})

    async def metadata(request: Request) -> Response:
        service, release = _find(request, endpoint)
        versions = service.versions if release is None else [str(release)]
        return _json(model_metadata(service.model, versions, PLATFORM, service.inputs, service.outputs))

    async def config(request: Request) -> Response:
        service, _ = _find(request, endpoint)
        return _json(model_config(service.model, PLATFORM, service.max_rows, service.inputs, service.outputs))

    add = partial(
        app.add_api_route, methods=["GET"], tags=["metadata"], response_class=Response, responses={404: _ERRORS[404]}
    )
    for suffix, answer in (("", metadata), ("/ready", model_ready), ("/config", config)):
        for prefix, extra in _model_paths():
            add(f"{prefix}{suffix}", answer, openapi_extra={"parameters": extra})

    async def stats(request: Request) -> Response:
        service, release = _find(request, endpoint)
        version = None if release is None else str(release)
        return _json(service.books.meter.statistics(service.versions, version))

    answers: dict[int | str, dict[str, Any]] = {200: openapi.STATISTICS_ANSWER, 404: _ERRORS[404]}
    for prefix, extra in _model_paths():
        add(f"{prefix}/stats", stats, openapi_extra={"parameters": extra}, responses=answers)

    async def about(request: Request) -> Response:
        service, _ = _find(request, endpoint)
        return _json(dict(service.about))

    async def models(request: Request) -> Response:
        return _json({"models": [dict(service.about) for service in endpoint.services.values()]})

    app.add_api_route("/v1/models", models, methods=["GET"], tags=["metadata"], response_class=Response)
    add("/v1/models/{model}", about, openapi_extra={"parameters": _path_parameters("model")})


def add_inference(app: FastAPI, endpoint: Endpoint) -> None:
    async def infer(request: Request) -> Response:
        # For the OpenAPI document, and for what names no model or Release: the Front has answered all others.
        service, release = _find(request, endpoint)
        body = await read_body(request.headers, request.receive, endpoint.max_body_bytes)
        account = _account(request, service)
        return _response(await service.infer(body, request.headers, release, account))

    async def predict(request: Request) -> Response:
        service, _ = _find(request, endpoint)
        body = await read_body(request.headers, request.receive, endpoint.max_body_bytes)
        account = _account(request, service)
        try:
            with account.span():
                return _response(await service.predict(body, request.headers, account))
        except asyncio.CancelledError:
            # No error's handler hears of it.
            account.failed(GONE)
            raise

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


def _find(request: Request, endpoint: Endpoint) -> tuple[Service, int | None]:
    return endpoint.find(request.path_params["model"], request.path_params.get("version"))


def _account(request: Request, service: Service) -> Account:
    """The request's Account, which an error's handler finds."""
    account = request.state.account = Account(service.books, "http", request.headers)
    return account


def _response(reply: Reply) -> Response:
    return Response(reply.body, 200, dict(reply.headers))


def _json(data: dict[str, Any]) -> Response:
    return Response(orjson.dumps(data), media_type="application/json")
