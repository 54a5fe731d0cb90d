"""Payloads: Open Inference Protocol V2 requests, built before the clock starts."""

import io
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from loadtests.endpoint import ModelMetadata
from loadtests.grpc_messages import METHOD, encode_request
from loadtests.samples import Samples

# Bodies are sent round-robin; more of them than this would only cost memory.
MAX_BODIES = 2_000
MAX_BODIES_BYTES = 256_000_000


@dataclass(frozen=True)
class InferRequest:
    """One POST or call, ready to be sent: `path` below the base URL, and the true classes of its rows.

    Over gRPC `path` is the method and `headers` are its metadata.
    """

    path: str
    body: bytes
    headers: dict[str, str]
    labels: tuple[int, ...]

    @property
    def rows(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class RequestOptions:
    """What is asked of the endpoint beside the tensor; None leaves a choice to the endpoint.

    `mode`: "cascade", "teacher" or "student"; `deadline_ms`: how long the client waits for a good answer.
    """

    batch: int = 1
    mode: str | None = None
    deadline_ms: float | None = None
    binary: bool = True
    grpc: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}: a request has at least one row")
        if self.deadline_ms is not None and not 0 < self.deadline_ms < float("inf"):
            raise ValueError(f"deadline_ms is {self.deadline_ms}: it must be above 0 and finite")
        if self.grpc and not self.binary:
            raise ValueError("over gRPC tensors are binary: JSON goes over HTTP")

    @property
    def parameters(self) -> dict[str, Any]:
        chosen = {"mode": self.mode, "deadline_ms": self.deadline_ms}
        return {name: value for name, value in chosen.items() if value is not None}


def infer_requests(
    model: ModelMetadata, samples: Samples, options: RequestOptions, seed: int = 0, limit: int = MAX_BODIES
) -> list[InferRequest]:
    """At most `limit` V2 requests of `options.batch` rows each, over the samples in an order given by `seed`."""
    order = np.random.default_rng(seed).permutation(len(samples))
    count = max(1, min(limit, MAX_BODIES, len(samples) // options.batch))
    requests: list[InferRequest] = []
    size_bytes = 0
    for index in range(count):
        # np.take wraps, so a batch larger than the set repeats samples.
        rows = np.take(order, range(index * options.batch, (index + 1) * options.batch), mode="wrap")
        labels = tuple(int(label) for label in samples.labels[rows])
        requests.append(infer_request(model, samples.inputs[rows], labels, options))
        size_bytes += len(requests[-1].body)
        if size_bytes > MAX_BODIES_BYTES:
            break
    return requests


def infer_request(
    model: ModelMetadata, inputs: NDArray[Any], labels: tuple[int, ...], options: RequestOptions
) -> InferRequest:
    """One V2 request for `inputs` [B, ...]; token ids lose the padding that no row of the batch needs."""
    if model.input.datatype == "INT64" and inputs.ndim == 2:
        inputs = inputs[:, : max(1, int(np.flatnonzero(inputs.any(axis=0)).max(initial=0)) + 1)]
    if options.grpc:
        tensors = (model.input.name, model.input.datatype, inputs, model.output.name)
        return InferRequest(METHOD, encode_request(model.name, *tensors, options.parameters), {}, labels)
    tensor: dict[str, Any] = {
        "name": model.input.name,
        "datatype": model.input.datatype,
        "shape": list(inputs.shape),
    }
    head: dict[str, Any] = {"inputs": [tensor], "outputs": [{"name": model.output.name}]}
    if options.parameters:
        head["parameters"] = options.parameters
    path = f"/v2/models/{quote(model.name, safe='')}/infer"
    if not options.binary:
        tensor["data"] = inputs.ravel().tolist()
        return InferRequest(path, json.dumps(head).encode(), {"Content-Type": "application/json"}, labels)
    raw = np.ascontiguousarray(inputs).astype(inputs.dtype.newbyteorder("<"), copy=False).tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head["outputs"][0]["parameters"] = {"binary_data": True}
    header = json.dumps(head).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
    return InferRequest(path, header + raw, headers, labels)


def png(image_CHW: NDArray[np.uint8]) -> bytes:
    """A grey or RGB image uint8 [C,H,W] as a PNG file."""
    from PIL import Image

    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
    return file.getvalue()
