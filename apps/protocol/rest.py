"""The data plane of the Open Inference Protocol V2 over REST: bytes to arrays, and arrays to bytes.

A request or response is JSON; with the binary tensor extension the raw little-endian bytes of tensors
follow the JSON, whose length the header `Inference-Header-Content-Length` then gives.

Whatever the bytes are, `parse_infer` returns arrays that fit their specs or raises ProtocolError.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from apps.protocol.elements import decode_elements, split_elements
from apps.protocol.request import (
    PAYLOAD,
    InferRequest,
    RequestedOutput,
    Scalar,
    check_inputs,
    check_name,
    check_output,
    check_payload_shape,
    check_shape,
    flag,
    refuse_shared_memory,
)
from apps.protocol.tensors import HEADER_LENGTH, ProtocolError, read_binary, read_json, show
from training.encoding import NUMPY_OF_DATATYPE, Array, TensorSpec

__all__ = [
    "HEADER_LENGTH",
    "InferRequest",
    "ProtocolError",
    "RequestedOutput",
    "Scalar",
    "encode_infer",
    "error_body",
    "parse_infer",
]

DATATYPE_OF_NUMPY = {dtype: datatype for datatype, dtype in NUMPY_OF_DATATYPE.items()}


def parse_infer(
    body: bytes,
    header_length: str | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_rows: int,
    takes_payloads: bool = False,
) -> InferRequest:
    """Body and `Inference-Header-Content-Length` (None: absent) of a POST to /infer -> InferRequest.

    Every input of `inputs` is present, with its datatype, an admitted shape of no empty axis and finite values; or,
    where `takes_payloads`, the one BYTES input PAYLOAD instead of them all. A field that is null counts as absent.
    Raises ProtocolError: 413 for more than `max_rows` rows, else 400.
    """
    json_size = len(body) if header_length is None else _json_size(header_length, len(body))
    text = body[:json_size]
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(
            f"the first {json_size} bytes of the body are not valid JSON: {error}; send a JSON object, "
            f"and with binary tensors its length in bytes in the header {HEADER_LENGTH}"
        ) from error
    if type(request) is not dict:
        raise ProtocolError(f"the body is {show(request)}; send a JSON object with a field 'inputs'")
    request_id = request.get("id")
    if request_id is not None and type(request_id) is not str:
        raise ProtocolError(f"id is {show(request_id)}; send a string, or leave it out")
    parameters = _parameters(request, "the request")
    arrays, payloads = _read_inputs(request, body, text, inputs, max_rows, takes_payloads)
    return InferRequest(request_id, arrays, parameters, _requested_outputs(request, parameters, outputs), payloads)


def encode_infer(
    request: InferRequest,
    model_name: str,
    model_version: str,
    outputs: Mapping[str, Array],
    parameters: Mapping[str, Scalar],
) -> tuple[bytes, dict[str, str]]:
    """Outputs -> response body and headers. `outputs` holds at least what `request.outputs` names.

    JSON has no NaN or infinity: an output sent as JSON shows null in their place.
    """
    tensors: list[dict[str, Any]] = []
    chunks: list[Any] = []
    for output in request.outputs:
        values = np.ascontiguousarray(outputs[output.name])
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": DATATYPE_OF_NUMPY[values.dtype],
            "shape": values.shape,
        }
        if output.binary:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            chunks.append(values.data)
        else:
            tensor["data"] = values.reshape(-1)
        tensors.append(tensor)
    response: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        response["id"] = request.id
    if parameters:
        response["parameters"] = parameters if type(parameters) is dict else dict(parameters)
    response["outputs"] = tensors
    text = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    if not chunks:
        return text, {"Content-Type": "application/json"}
    return b"".join((text, *chunks)), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def error_body(message: str) -> bytes:
    """The JSON body of an error response."""
    return orjson.dumps({"error": message.encode(errors="replace").decode()})


def _json_size(header_length: str, body_size: int) -> int:
    # `isdigit` alone takes the digits of other scripts, `int` alone signs, blanks and underscores.
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 19):
        raise ProtocolError(f"header {HEADER_LENGTH} is {show(header_length)}; send the JSON's length in bytes")
    size = int(header_length)
    if size > body_size:
        raise ProtocolError(
            f"header {HEADER_LENGTH} is {size} but the body has {body_size} bytes; send the length of its JSON part"
        )
    return size


def _parameters(owner: dict[str, Any], whose: str) -> dict[str, Scalar]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise ProtocolError(f"parameters of {whose} are {show(parameters)}; send a JSON object")
    for name, value in parameters.items():
        if isinstance(value, list | dict):
            raise ProtocolError(
                f"parameter {show(name)} of {whose} is {show(value)}; send a string, a number, true or false"
            )
    return {name: value for name, value in parameters.items() if value is not None}


def _requested_outputs(
    request: dict[str, Any], parameters: dict[str, Scalar], specs: Sequence[TensorSpec]
) -> tuple[RequestedOutput, ...]:
    binary = flag(parameters, "binary_data_output", default=False)
    entries = request.get("outputs")
    if entries is None or entries == []:
        return tuple(RequestedOutput(spec.name, binary) for spec in specs)
    known = {spec.name: spec for spec in specs}
    requested: dict[str, RequestedOutput] = {}
    for entry in _entries(entries, "outputs"):
        name = check_name(entry.get("name"), "output", known, requested)
        requested[name] = check_output(_parameters(entry, f"output {name!r}"), name, binary)
    return tuple(requested.values())


def _read_inputs(
    request: dict[str, Any],
    body: bytes,
    text: bytes,
    specs: Sequence[TensorSpec],
    max_rows: int,
    takes_payloads: bool,
) -> tuple[dict[str, Array], tuple[bytes, ...]]:
    spec_of = {spec.name: spec for spec in specs}
    known: dict[str, TensorSpec | None] = {**spec_of}
    if takes_payloads:
        known.setdefault(PAYLOAD, None)
    arrays: dict[str, Array] = {}
    payloads: tuple[bytes, ...] = ()
    offset = len(text)
    for entry in _entries(request.get("inputs"), "inputs"):
        name = check_name(entry.get("name"), "input", known, (*arrays, PAYLOAD) if payloads else arrays)
        spec = known[name]
        own = _parameters(entry, f"input {name!r}")
        refuse_shared_memory(own, f"input {name!r}")
        data = entry.get("data")
        is_binary = "binary_data_size" in own
        if is_binary and data is not None:
            raise ProtocolError(f"input {name!r} has both 'data' and 'binary_data_size'; send one of them")
        if spec is None:
            count = check_payload_shape(entry.get("datatype"), entry.get("shape"), max_rows)
            if is_binary:
                raw = _raw_elements(own["binary_data_size"], body, offset)
                payloads = split_elements(raw, name, count)
                offset += len(raw)
            else:
                payloads = decode_elements(data, name, count, own.get("content_type"))
            continue
        shape = check_shape(spec, entry.get("datatype"), entry.get("shape"), max_rows)
        if is_binary:
            arrays[name] = read_binary(own["binary_data_size"], spec, shape, body, offset)
            offset += arrays[name].nbytes
        else:
            # Without these literals in the text there is no boolean in it, and no value's type need be looked at.
            may_hold_booleans = b"true" in text or b"false" in text
            arrays[name] = read_json(data, spec, shape, may_hold_booleans)
    if offset != len(body):
        raise ProtocolError(
            f"the body has {len(body) - offset} bytes after its last tensor; "
            "send exactly the bytes that the binary_data_size of all inputs add up to"
        )
    check_inputs(arrays, payloads, spec_of, takes_payloads)
    return arrays, payloads


def _raw_elements(size: object, body: bytes, offset: int) -> memoryview:
    left = len(body) - offset
    if type(size) is not int or not 0 <= size <= left:
        raise ProtocolError(
            f"input {PAYLOAD!r} has binary_data_size {show(size)} but {left} bytes are left in the body; "
            f"send them after the JSON, and the JSON's length in the header {HEADER_LENGTH}"
        )
    return memoryview(body)[offset : offset + size]


def _entries(entries: object, field: str) -> list[dict[str, Any]]:
    if not isinstance(entries, list) or not entries:
        raise ProtocolError(f"{field} is {show(entries)}; send an array of tensor objects")
    for entry in entries:
        if type(entry) is not dict:
            raise ProtocolError(f"{field} holds {show(entry)}; send an array of tensor objects")
    return entries
