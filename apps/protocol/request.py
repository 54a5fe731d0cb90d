"""InferRequest: what a V2 client asks of a model, and the checks that hold whatever protocol brought it.

A decoder (JSON in rest.py, protobuf in grpc_codec.py) reads the fields of its own form and passes them
through these functions, so that both refuse the same requests with the same words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from apps.protocol.tensors import ProtocolError, show
from training.encoding import NUMPY_OF_DATATYPE, Array, Encoding, TensorSpec, TextEncoding

# Instead of its tensor a model also takes what a person has: a text or an image file a row, as BYTES.
PAYLOAD = "payload"
# A small file may decode to hundreds of megabytes, so fewer payloads fit into one request than rows.
MAX_PAYLOADS = 32

Scalar = str | float | int | bool


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output to send back, as raw bytes (`binary`) or as numbers that the protocol itself spells."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference request. `inputs` may be read-only views of the body; all have `rows` rows, at least 1.

    A request has either `inputs` or `payloads`, one a row, which are still to be encoded.
    """

    id: str | None
    inputs: dict[str, Array]
    parameters: dict[str, Scalar]
    outputs: tuple[RequestedOutput, ...]
    payloads: tuple[bytes, ...] = ()

    @property
    def rows(self) -> int:
        return len(self.payloads) or len(next(iter(self.inputs.values())))


def offered_outputs(outputs: Sequence[TensorSpec], mentioned: bool) -> Sequence[TensorSpec]:
    """What a request that names no output gets: the first one, and where probabilities are `mentioned` all."""
    return outputs if mentioned else outputs[:1]


def settle(request: InferRequest, encoding: Encoding, vocabulary_size: int | None) -> InferRequest:
    """`request` with the outputs that its parameters leave, once its tokens are such that the model knows.

    Raises ProtocolError.
    """
    wanted = flag(request.parameters, "probabilities", default=True)
    if not wanted:
        named = tuple(output for output in request.outputs if output.name != "probabilities")
        request = replace(request, outputs=named or request.outputs)
    if isinstance(encoding, TextEncoding) and request.inputs:
        check_tokens(encoding.input_spec.name, request.inputs[encoding.input_spec.name], encoding, vocabulary_size or 0)
    return request


def check_tokens(name: str, tokens_BL: Array, encoding: TextEncoding, vocabulary_size: int) -> None:
    """Raises ProtocolError for more tokens a row, or others, than the model reads."""
    length = tokens_BL.shape[1]
    if length > encoding.max_tokens:
        raise ProtocolError(f"input {name!r} has {length} tokens a row; this model reads {encoding.max_tokens}")
    low, high = int(tokens_BL.min()), int(tokens_BL.max())
    if low < 0 or high >= vocabulary_size:
        raise ProtocolError(
            f"input {name!r} holds token ids {low} to {high}; this model knows 0 to {vocabulary_size - 1}"
        )


def check_name(name: object, what: str, known: Mapping[str, object], seen: Iterable[str]) -> str:
    """`name` where the model knows it and it comes for the first time; raises ProtocolError."""
    if type(name) is not str or name not in known:
        raise ProtocolError(f"{what} name is {show(name)}; this model has {', '.join(known)}")
    if name in seen:
        raise ProtocolError(f"{what} {name!r} is given twice; send it once")
    return name


def check_shape(spec: TensorSpec, datatype: object, shape: object, max_rows: int) -> tuple[int, ...]:
    """`shape`, once it and `datatype` agree with `spec`; raises ProtocolError, 413 for more than `max_rows` rows."""
    _check_datatype(spec.name, datatype, spec.datatype)
    if type(shape) is not list or any(type(size) is not int for size in shape) or not spec.admits(shape):
        raise _misshapen(spec.name, shape, spec.shape)
    _check_rows(spec.name, shape, max_rows)
    return tuple(shape)


def check_payload_shape(datatype: object, shape: object, max_rows: int) -> int:
    """How many payloads an entry named PAYLOAD announces; raises ProtocolError as `check_shape` does."""
    _check_datatype(PAYLOAD, datatype, "BYTES")
    if type(shape) is not list or len(shape) != 1 or type(shape[0]) is not int:
        raise _misshapen(PAYLOAD, shape, (-1,))
    _check_rows(PAYLOAD, shape, min(max_rows, MAX_PAYLOADS))
    return shape[0]


def check_inputs(
    arrays: Mapping[str, Array], payloads: Sequence[bytes], specs: Mapping[str, TensorSpec], takes_payloads: bool
) -> None:
    """Raises ProtocolError unless there is all that the model needs, no more, and the same number of rows of each."""
    if payloads:
        if arrays:
            both = ", ".join(map(repr, (*arrays, PAYLOAD)))
            raise ProtocolError(f"inputs {both} are given together; send {PAYLOAD!r} alone or without it")
        return
    missing = [name for name in specs if name not in arrays]
    if missing:
        also = f", or {PAYLOAD} alone" if takes_payloads else ""
        raise ProtocolError(f"no input {', '.join(map(repr, missing))}; this model takes {', '.join(specs)}{also}")
    rows = {name: len(values) for name, values in arrays.items()}
    if len(set(rows.values())) > 1:
        raise ProtocolError(f"inputs differ in rows: {rows}; send the same number for each")


def check_output(parameters: Mapping[str, Scalar], name: str, binary: bool) -> RequestedOutput:
    """Output `name` with its own `parameters`, `binary` unless they say otherwise; raises ProtocolError."""
    refuse_shared_memory(parameters, f"output {name!r}")
    if "classification" in parameters:
        raise ProtocolError(
            f"output {name!r} asks for classification {show(parameters['classification'])}, which is not supported; "
            "leave that parameter out and sort the values"
        )
    return RequestedOutput(name, flag(parameters, "binary_data", binary))


def flag(parameters: Mapping[str, Scalar], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ProtocolError(f"parameter {name!r} is {show(value)}; send true or false")
    return value


def refuse_shared_memory(parameters: Mapping[str, Scalar], whose: str) -> None:
    for name in parameters:
        if name.startswith("shared_memory"):
            raise ProtocolError(f"{whose} has parameter {show(name)}; shared memory is not supported, send the data")


def _check_datatype(name: str, datatype: object, wanted: str) -> None:
    if datatype == wanted:
        return
    is_known = type(datatype) is str and (datatype in NUMPY_OF_DATATYPE or datatype == "BYTES")
    known = "" if is_known else ", which is not known here"
    raise ProtocolError(f"input {name!r} has datatype {show(datatype)}{known}; this model takes {wanted}")


def _misshapen(name: str, shape: object, wanted: Sequence[int]) -> ProtocolError:
    return ProtocolError(
        f"input {name!r} has shape {show(shape)}; this model takes {show(list(wanted))} (-1: any size)"
    )


def _check_rows(name: str, shape: list[int], max_rows: int) -> None:
    if min(shape) < 1:
        raise ProtocolError(f"input {name!r} has shape {show(shape)}; send at least 1 along each axis")
    if shape[0] > max_rows:
        raise ProtocolError(f"input {name!r} has {shape[0]} rows; send at most {max_rows} in one request", status=413)
