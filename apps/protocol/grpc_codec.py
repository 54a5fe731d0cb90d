"""Open Inference Protocol V2 over gRPC: protobuf messages to requests and answers to messages.

The checks are those of the REST side (request.py, tensors.py), so both refuse alike. Whatever the message
holds, `decode_infer` returns arrays that fit their specs or raises ProtocolError.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apps.protocol.elements import check_elements, split_elements
from apps.protocol.grpc_protocol_pb2 import InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse
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
from apps.protocol.rest import DATATYPE_OF_NUMPY
from apps.protocol.tensors import ProtocolError, read_json, read_raw
from training.encoding import Array, TensorSpec

# Where the typed contents of a datatype stand; FP16 has no place there.
CONTENTS_OF_DATATYPE = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode_infer(
    message: ModelInferRequest,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_rows: int,
    takes_payloads: bool = False,
) -> InferRequest:
    """As `parse_infer` of the REST side. Arrays may be read-only views of the bytes that the message handed out.

    Outputs go back in the form in which the inputs came, unless `binary_data_output` or `binary_data` say otherwise.
    """
    parameters = decode_parameters(message.parameters)
    is_raw = bool(message.raw_input_contents)
    arrays, payloads = _read_inputs(message, inputs, max_rows, takes_payloads)
    default = flag(parameters, "binary_data_output", is_raw)
    requested = _requested_outputs(message, outputs, default)
    return InferRequest(message.id or None, arrays, parameters, requested, payloads)


def raw_bytes(message: ModelInferRequest) -> int:
    """How many bytes of tensors came raw."""
    return sum(map(len, message.raw_input_contents))


def encode_infer(
    request: InferRequest,
    model_name: str,
    model_version: str,
    outputs: Mapping[str, Array],
    parameters: Mapping[str, Scalar],
) -> ModelInferResponse:
    """Outputs -> response. `outputs` holds at least what `request.outputs` names; one of them raw makes all raw."""
    arrays = {output.name: np.ascontiguousarray(outputs[output.name]) for output in request.outputs}
    datatypes = {name: DATATYPE_OF_NUMPY[values.dtype] for name, values in arrays.items()}
    is_raw = any(output.binary for output in request.outputs) or not set(datatypes.values()) <= set(
        CONTENTS_OF_DATATYPE
    )
    response = ModelInferResponse(model_name=model_name, model_version=model_version, id=request.id or "")
    for name, value in parameters.items():
        _set(response.parameters[name], value)
    for name, values in arrays.items():
        tensor = response.outputs.add(name=name, datatype=datatypes[name], shape=values.shape)
        if is_raw:
            response.raw_output_contents.append(values.tobytes())
        else:
            getattr(tensor.contents, CONTENTS_OF_DATATYPE[datatypes[name]]).extend(values.reshape(-1).tolist())
    return response


def decode_parameters(parameters: Mapping[str, InferParameter]) -> dict[str, Scalar]:
    """Parameters by name; one without a value counts as absent."""
    chosen = {name: (value, value.WhichOneof("parameter_choice")) for name, value in parameters.items()}
    return {name: getattr(value, choice) for name, (value, choice) in chosen.items() if choice is not None}


def _set(parameter: InferParameter, value: Scalar) -> None:
    # A boolean is a whole number too, so it is asked for first.
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _requested_outputs(
    message: ModelInferRequest, specs: Sequence[TensorSpec], binary: bool
) -> tuple[RequestedOutput, ...]:
    if not message.outputs:
        return tuple(RequestedOutput(spec.name, binary) for spec in specs)
    known = {spec.name: spec for spec in specs}
    requested: dict[str, RequestedOutput] = {}
    for output in message.outputs:
        name = check_name(output.name, "output", known, requested)
        requested[name] = check_output(decode_parameters(output.parameters), name, binary)
    return tuple(requested.values())


def _read_inputs(
    message: ModelInferRequest, specs: Sequence[TensorSpec], max_rows: int, takes_payloads: bool
) -> tuple[dict[str, Array], tuple[bytes, ...]]:
    spec_of = {spec.name: spec for spec in specs}
    known: dict[str, TensorSpec | None] = {**spec_of}
    if takes_payloads:
        known.setdefault(PAYLOAD, None)
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise ProtocolError(
            f"the request has {len(message.inputs)} inputs and {len(raws)} raw_input_contents; send one for each input"
        )
    if not message.inputs:
        raise ProtocolError("inputs is []; send an array of tensor objects")
    arrays: dict[str, Array] = {}
    payloads: tuple[bytes, ...] = ()
    for position, entry in enumerate(message.inputs):
        name = check_name(entry.name, "input", known, (*arrays, PAYLOAD) if payloads else arrays)
        spec = known[name]
        refuse_shared_memory(decode_parameters(entry.parameters), f"input {name!r}")
        if raws and entry.HasField("contents"):
            raise ProtocolError(f"input {name!r} has both 'contents' and raw_input_contents; send one of them")
        shape = list(entry.shape)
        if spec is None:
            count = check_payload_shape(entry.datatype, shape, max_rows)
            if raws:
                payloads = split_elements(raws[position], name, count)
            else:
                payloads = check_elements(_contents(entry.contents, name, "BYTES"), name, count)
            continue
        sizes = check_shape(spec, entry.datatype, shape, max_rows)
        if raws:
            arrays[name] = read_raw(raws[position], spec, sizes)
        else:
            numbers = _contents(entry.contents, name, spec.datatype)
            arrays[name] = read_json(numbers, spec, sizes, may_hold_booleans=False)
    check_inputs(arrays, payloads, spec_of, takes_payloads)
    return arrays, payloads


def _contents(contents: InferTensorContents, name: str, datatype: str) -> list[Any]:
    """The typed contents of `datatype`; raises ProtocolError where they stand among those of another one."""
    wanted = CONTENTS_OF_DATATYPE.get(datatype)
    if wanted is None:
        raise ProtocolError(f"input {name!r} is {datatype}, which has no typed contents; send raw_input_contents")
    for field, _ in contents.ListFields():
        if field.name != wanted:
            raise ProtocolError(f"input {name!r} has {field.name}; {datatype} goes into {wanted}")
    return list(getattr(contents, wanted))
