"""Endpoint: which address may be loaded, and what the model behind it says it takes.

Everything here is synchronous (urllib), so that it also works inside a gevent-patched process.
"""

import json
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

MAX_METADATA_BYTES = 1_000_000


class EndpointError(ValueError):
    """The endpoint may not be loaded, cannot be reached, or does not say what is needed; the message says which."""


@dataclass(frozen=True)
class Tensor:
    """Name, V2 datatype and shape as the endpoint states them; -1 marks a dynamic axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelMetadata:
    """The part of `GET /v2/models/{m}` that a client needs."""

    name: str
    versions: tuple[str, ...]
    input: Tensor
    output: Tensor


def check_url(url: str, allow_remote: bool) -> str:
    """The base URL without a trailing slash; raises EndpointError where it is none, or not loopback and not allowed."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise EndpointError(f"{url!r} is not a plain http(s) address; write it like http://127.0.0.1:8000")
    if not allow_remote and not _is_loopback(parts.hostname):
        raise EndpointError(
            f"{parts.hostname!r} is not a loopback address. A load test can take a service down: "
            "pass --allow-remote if the machine is yours to load"
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def model_metadata(url: str, model: str, timeout_s: float = 10.0) -> ModelMetadata:
    """Ask the endpoint what `model` takes and gives; raises EndpointError when it cannot be asked or understood."""
    path = f"{url}/v2/models/{quote(model, safe='')}"
    answer = _get_json(path, timeout_s)
    try:
        inputs = [_tensor(item) for item in answer["inputs"]]
        outputs = [_tensor(item) for item in answer["outputs"]]
        versions = tuple(str(version) for version in answer.get("versions") or ())
    except (KeyError, TypeError, ValueError) as error:
        raise EndpointError(f"GET {path}: no V2 model metadata in {str(answer)[:200]} ({error!r})") from error
    if len(inputs) != 1 or not outputs:
        raise EndpointError(
            f"GET {path}: model {model!r} has {len(inputs)} inputs and {len(outputs)} outputs; "
            "this client sends one input and reads the output named 'logits', or else the first"
        )
    output = next((tensor for tensor in outputs if tensor.name == "logits"), outputs[0])
    return ModelMetadata(name=model, versions=versions, input=inputs[0], output=output)


def _tensor(item: dict[str, Any]) -> Tensor:
    return Tensor(str(item["name"]), str(item["datatype"]), tuple(int(size) for size in item["shape"]))


class _NoRedirect(HTTPRedirectHandler):
    """A redirect could leave the machine that the user agreed to load."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def direct_opener() -> OpenerDirector:
    """Opens the address that was given and nothing else: no proxy from the environment, no redirect."""
    return build_opener(ProxyHandler({}), _NoRedirect())


def _get_json(url: str, timeout_s: float) -> dict[str, Any]:
    try:
        with direct_opener().open(Request(url, headers={"Accept": "application/json"}), timeout=timeout_s) as response:
            body = response.read(MAX_METADATA_BYTES)
    except HTTPError as error:
        detail = error.read(300).decode("utf-8", "replace").strip()
        raise EndpointError(
            f"GET {url} answered {error.code} {detail}; is the model's name right (--model), and is it loaded?"
        ) from error
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise EndpointError(f"GET {url}: the endpoint cannot be reached ({reason}); is it running?") from error
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise EndpointError(f"GET {url} did not answer JSON but {body[:100]!r}") from error
    if not isinstance(answer, dict):
        raise EndpointError(f"GET {url} answered {str(answer)[:100]}, not a JSON object")
    return answer
