"""V2 inference messages over gRPC: the fields that a load test sends and reads, described here once.

The description is built when first used, in a pool of its own: whatever stubs a process has loaded for the same
protocol are neither needed nor disturbed.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]

METHOD = "/inference.GRPCInferenceService/ModelInfer"

# Message -> its fields as name, number, type ("+" before a repeated one); numbers are those of the public protocol.
_TENSOR = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "+int64"), "contents": (5, "Contents")}
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Parameter": {
        "bool_param": (1, "bool"),
        "int64_param": (2, "int64"),
        "string_param": (3, "string"),
        "double_param": (4, "double"),
    },
    "Entry": {"key": (1, "string"), "value": (2, "Parameter")},
    "Contents": {"fp32_contents": (6, "+float"), "fp64_contents": (7, "+double")},
    "Tensor": _TENSOR,
    "RequestedOutput": {"name": (1, "string")},
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "parameters": (4, "+Entry"),
        "inputs": (5, "+Tensor"),
        "outputs": (6, "+RequestedOutput"),
        "raw_input_contents": (7, "+bytes"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "parameters": (4, "+Entry"),
        "outputs": (5, "+Tensor"),
        "raw_output_contents": (6, "+bytes"),
    },
}


@functools.cache
def _message_types() -> dict[str, type["Message"]]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="loadtests.proto", package="loadtests", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            label = field_type.LABEL_REPEATED if kind.startswith("+") else field_type.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            kind = kind.removeprefix("+")
            if kind in _FIELDS:
                made.type, made.type_name = field_type.TYPE_MESSAGE, f".loadtests.{kind}"
            else:
                made.type = field_type.Type.Value(f"TYPE_{kind.upper()}")
            if name == "Parameter":
                made.oneof_index = 0
        if name == "Parameter":
            message.oneof_decl.add(name="choice")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"loadtests.{name}")) for name in _FIELDS}


def encode_request(
    model: str, name: str, datatype: str, inputs: NDArray[Any], output: str, parameters: Mapping[str, Any]
) -> bytes:
    """A ModelInferRequest with the tensor `name` as raw contents."""
    message: Any = _message_types()["ModelInferRequest"]()
    message.model_name = model
    message.inputs.add(name=name, datatype=datatype, shape=inputs.shape)
    message.outputs.add(name=output)
    message.raw_input_contents.append(
        np.ascontiguousarray(inputs).astype(inputs.dtype.newbyteorder("<"), copy=False).tobytes()
    )
    for key, value in parameters.items():
        entry = message.parameters.add(key=key)
        field = {bool: "bool_param", int: "int64_param", float: "double_param"}.get(type(value), "string_param")
        setattr(entry.value, field, value)
    serialized: bytes = message.SerializeToString()
    return serialized


def decode_answer(body: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """A ModelInferResponse as its tensors and its parameters; raises ValueError on anything else."""
    from google.protobuf.message import DecodeError

    message: Any = _message_types()["ModelInferResponse"]()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise ValueError(f"no ModelInferResponse: {error}") from error
    tensors = {}
    for index, tensor in enumerate(message.outputs):
        dtype = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}.get(tensor.datatype)
        if dtype is None:
            continue  # logits are floats; what else is there is not read
        if message.raw_output_contents:
            values = np.frombuffer(message.raw_output_contents[index], dtype)
        else:
            values = np.array(tensor.contents.fp32_contents or tensor.contents.fp64_contents, dtype)
        tensors[tensor.name] = values.reshape(list(tensor.shape))
    parameters = {}
    for entry in message.parameters:
        chosen = entry.value.WhichOneof("choice")
        parameters[entry.key] = "" if chosen is None else str(getattr(entry.value, chosen))
    return tensors, parameters
