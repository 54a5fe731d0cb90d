"""The data of one input tensor, as raw bytes or as JSON values, to an array that fits its spec."""

from array import array
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import orjson

from training.encoding import NUMPY_OF_DATATYPE, Array, TensorSpec

HEADER_LENGTH = "Inference-Header-Content-Length"

# `array` refuses what is no number and what overflows a whole number; it takes booleans, which are checked apart.
_TYPECODES = {"INT32": "i", "INT64": "q", "FP16": "d", "FP32": "f", "FP64": "d"}


class ProtocolError(ValueError):
    """A request that cannot be answered; `status` is the HTTP code, the message is meant for the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def read_binary(size: object, spec: TensorSpec, shape: tuple[int, ...], body: bytes, offset: int) -> Array:
    """The tensor of `size` bytes at `offset` of `body`, a read-only view of it where alignment allows.

    `shape` is admitted by `spec` and holds no empty axis. Raises ProtocolError when `size` is not what the
    shape takes, when fewer bytes are left, and when they hold what the datatype does not, NaN and infinity included.
    """
    wanted = prod(shape) * spec.dtype.itemsize
    if type(size) is not int or size != wanted:
        raise ProtocolError(
            f"input {spec.name!r} has binary_data_size {show(size)}; "
            f"shape {show(list(shape))} of {spec.datatype} takes {wanted} bytes"
        )
    if size > len(body) - offset:
        raise ProtocolError(
            f"input {spec.name!r} needs {size} bytes but {len(body) - offset} are left in the body; "
            f"send them after the JSON, and the JSON's length in the header {HEADER_LENGTH}"
        )
    return _view(body, spec, shape, offset)


def read_raw(raw: bytes, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """The tensor that `raw` is all of; else as `read_binary`."""
    wanted = prod(shape) * spec.dtype.itemsize
    if len(raw) != wanted:
        raise ProtocolError(
            f"input {spec.name!r} has {len(raw)} bytes of raw contents; "
            f"shape {show(list(shape))} of {spec.datatype} takes {wanted} bytes"
        )
    return _view(raw, spec, shape, 0)


def read_json(data: object, spec: TensorSpec, shape: tuple[int, ...], may_hold_booleans: bool) -> Array:
    """`data`, parsed JSON, as an array of `shape`; flat row by row, or nested like the shape.

    No value is converted in kind: 1.5, true and "1" are no UINT8. `may_hold_booleans=False` promises that
    there is no boolean in `data`, which spares a look at each value's type. Raises ProtocolError.
    """
    if not isinstance(data, list):
        raise ProtocolError(f"input {spec.name!r} has data {show(data)}; send an array, or binary_data_size")
    values = _flat(data, spec, shape)
    if spec.datatype == "BOOL":
        if set(map(type, values)) != {bool}:
            raise _misfit(values, spec)
        return np.array(values, dtype=np.bool_).reshape(shape)
    if may_hold_booleans and bool in set(map(type, values)):
        raise _misfit(values, spec)
    try:
        packed = bytes(values) if spec.datatype == "UINT8" else array(_TYPECODES[spec.datatype], values)
    except (TypeError, ValueError, OverflowError):
        raise _misfit(values, spec) from None
    numbers: Array = np.frombuffer(packed, np.float64 if spec.datatype == "FP16" else spec.dtype)
    if spec.datatype == "FP16":
        with np.errstate(over="ignore"):
            numbers = numbers.astype(np.float16)
    # JSON itself holds no infinity: what is one here was too large for the datatype.
    _refuse_non_finite(numbers, spec)
    return numbers.reshape(shape)


def _view(buffer: bytes, spec: TensorSpec, shape: tuple[int, ...], offset: int) -> Array:
    values = np.frombuffer(buffer, spec.dtype, prod(shape), offset)
    if spec.datatype == "BOOL" and values.view(np.uint8).max() > 1:
        raise ProtocolError(f"input {spec.name!r} holds a byte other than 0 and 1; BOOL takes 0 (false) or 1 (true)")
    _refuse_non_finite(values, spec)
    # Kernels expect aligned numbers, and JSON of any length may come before them.
    return (values if values.flags.aligned else values.copy()).reshape(shape)


def _flat(data: list[Any], spec: TensorSpec, shape: tuple[int, ...]) -> list[Any]:
    """`data`, flat or nested as `shape`, as a flat list of prod(shape) items of any type."""
    if data and isinstance(data[0], list):
        if len(data) != shape[0]:
            raise ProtocolError(_nesting(spec, shape, f"{len(data)} items along axis 0"))
        for axis, size in enumerate(shape[1:], start=1):
            for item in data:
                if not isinstance(item, list) or len(item) != size:
                    raise ProtocolError(_nesting(spec, shape, f"{show(item)} along axis {axis}"))
            data = list(chain.from_iterable(data))
    if len(data) != prod(shape):
        raise ProtocolError(_nesting(spec, shape, f"{len(data)} items"))
    return data


def _nesting(spec: TensorSpec, shape: tuple[int, ...], got: str) -> str:
    return (
        f"input {spec.name!r} has data of {got}; shape {show(list(shape))} takes {prod(shape)} numbers, "
        "in one flat array or nested like the shape"
    )


def _refuse_non_finite(values: Array, spec: TensorSpec) -> None:
    if values.dtype.kind != "f":
        return
    finite = np.isfinite(values)
    if not finite.all():
        raise ProtocolError(
            f"input {spec.name!r} is non-finite at position {int(finite.argmin())} of its flat data; "
            f"send {_range(spec.datatype)}"
        )


def _misfit(values: list[Any], spec: TensorSpec) -> ProtocolError:
    """The error that names the first of `values` that `spec.datatype` cannot hold."""
    kinds: tuple[type, ...] = {"b": (bool,), "f": (int, float)}.get(spec.dtype.kind, (int,))
    low, high = (np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max) if kinds == (int,) else (-np.inf, np.inf)
    position = next(i for i, value in enumerate(values) if type(value) not in kinds or not low <= value <= high)
    return ProtocolError(
        f"input {spec.name!r} has {show(values[position])} at position {position} of its flat data; "
        f"{spec.datatype} takes {_range(spec.datatype)}"
    )


def _range(datatype: str) -> str:
    dtype = NUMPY_OF_DATATYPE[datatype]
    if dtype.kind == "b":
        return "true or false"
    if dtype.kind == "f":
        return f"finite numbers up to {float(np.finfo(dtype).max):.5g}"
    return f"whole numbers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max}"


def show(value: object) -> str:
    """`value` as JSON for an error message: short, however large or deep it is."""
    if value is None:
        return "missing or null"
    if isinstance(value, list):
        if len(value) <= 8 and not any(isinstance(item, list | dict | str) for item in value):
            return str(orjson.dumps(value).decode()).replace(",", ", ")
        return f"an array of {len(value)} items"
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "...")
    return orjson.dumps(value).decode()
