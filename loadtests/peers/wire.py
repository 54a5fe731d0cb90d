"""What goes over the wire: one request as each server takes it natively, and the logits in its answer."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from loadtests.peers.model import CLASSES, INPUT

_HEADER_LENGTH = "inference-header-content-length"


class WireError(ValueError):
    """An answer in which no logits of the right shape are found."""


@dataclass(frozen=True)
class Post:
    """One HTTP request, ready to be sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Wire(Protocol):
    """How a server is asked and how it answers. `described` is what the report says of it."""

    @property
    def described(self) -> str: ...

    def post(self, images_BCHW: NDArray[np.uint8]) -> Post: ...

    def logits(self, headers: Mapping[str, str], body: bytes, rows: int) -> NDArray[np.float32]:
        """Logits [rows, 10] of an answer, `headers` by lower-case name; raises WireError."""
        ...


@dataclass(frozen=True)
class Raw:
    """The pixels of one image as the body; ten float32 as the answer."""

    path: str = "/"
    described: str = "raw: 3,072 bytes in, 40 bytes out"

    def post(self, images_BCHW: NDArray[np.uint8]) -> Post:
        return Post(self.path, {"Content-Type": "application/octet-stream"}, images_BCHW.tobytes())

    def logits(self, headers: Mapping[str, str], body: bytes, rows: int) -> NDArray[np.float32]:
        return _shaped(body, rows)


@dataclass(frozen=True)
class V2:
    """Open Inference Protocol V2 over REST: tensors binary, as JSON numbers, or images as base64 strings."""

    path: str
    data: Literal["binary", "json", "base64"] = "binary"

    @property
    def described(self) -> str:
        named = {"binary": "binary tensors", "json": "JSON numbers", "base64": "base64 in JSON in, JSON numbers"}
        return f"V2 REST, {named[self.data]}{' ' if self.data == 'base64' else ' in and '}out"

    def post(self, images_BCHW: NDArray[np.uint8]) -> Post:
        tensor: dict[str, Any] = {"name": INPUT, "datatype": "UINT8", "shape": list(images_BCHW.shape)}
        if self.data == "json":
            tensor["data"] = images_BCHW.reshape(-1).tolist()
            return Post(self.path, {"Content-Type": "application/json"}, _compact({"inputs": [tensor]}))
        if self.data == "base64":
            rows = [base64.b64encode(image.tobytes()).decode() for image in images_BCHW]
            tensor |= {"datatype": "BYTES", "shape": [len(rows), 1], "parameters": {"content_type": "base64"}}
            return Post(
                self.path, {"Content-Type": "application/json"}, _compact({"inputs": [{**tensor, "data": rows}]})
            )
        pixels = images_BCHW.tobytes()
        tensor["parameters"] = {"binary_data_size": len(pixels)}
        head = _compact({"inputs": [tensor], "parameters": {"binary_data_output": True}})
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return Post(self.path, headers, head + pixels)

    def logits(self, headers: Mapping[str, str], body: bytes, rows: int) -> NDArray[np.float32]:
        try:
            head_bytes = int(headers.get(_HEADER_LENGTH) or len(body))
            (output,) = json.loads(body[:head_bytes])["outputs"]
            if "data" in output:
                return _shaped(np.asarray(output["data"], np.float32).tobytes(), rows)
            return _shaped(body[head_bytes:], rows)
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"no V2 answer with one output: {error!r} in {body[:200]!r}") from error


@dataclass(frozen=True)
class Base64:
    """Images as a JSON list of base64 strings, and so the answer."""

    path: str
    described: str = "JSON with base64 pixels in, JSON with base64 logits out"

    def post(self, images_BCHW: NDArray[np.uint8]) -> Post:
        images = [base64.b64encode(image.tobytes()).decode() for image in images_BCHW]
        return Post(self.path, {"Content-Type": "application/json"}, _compact({"images": images}))

    def logits(self, headers: Mapping[str, str], body: bytes, rows: int) -> NDArray[np.float32]:
        try:
            return _shaped(b"".join(base64.b64decode(row) for row in json.loads(body)), rows)
        except (TypeError, ValueError) as error:
            raise WireError(f"no list of base64 strings: {error!r} in {body[:200]!r}") from error


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _shaped(raw: bytes, rows: int) -> NDArray[np.float32]:
    if len(raw) != 4 * rows * CLASSES:
        raise WireError(f"{len(raw)} bytes of logits where {4 * rows * CLASSES} are due: {raw[:200]!r}")
    return np.frombuffer(raw, "<f4").reshape(rows, CLASSES)
