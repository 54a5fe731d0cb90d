"""Answers: V2 responses read back into logits, JSON and binary tensors alike.

Shape suffixes: B batch, C classes.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.grpc_messages import decode_answer

NUMPY_OF_OUTPUT: dict[str, np.dtype[Any]] = {"FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}


class AnswerError(ValueError):
    """A 2xx answer that does not hold the logits that were asked for."""


def read_grpc_answer(body: bytes, output: str, rows: int) -> tuple[NDArray[Any], dict[str, str]]:
    """As `read_logits`, of a ModelInferResponse; with its parameters, which say what headers say over HTTP."""
    try:
        tensors, parameters = decode_answer(body)
        logits_BC = tensors[output]
    except (ValueError, LookupError) as error:
        raise AnswerError(f"not a V2 answer with output {output!r}: {error!r}") from error
    return _checked(logits_BC, output, rows), parameters


def read_logits(body: bytes, headers: Mapping[str, str], output: str, rows: int) -> NDArray[Any]:
    """Finite logits [B,C] with B = `rows` of the tensor named `output`; raises AnswerError otherwise.

    `headers` has to be case-insensitive or in lower case.
    """
    length = headers.get("inference-header-content-length")
    try:
        header_bytes = len(body) if length is None else int(length)
        if not 0 <= header_bytes <= len(body):
            raise ValueError(f"Inference-Header-Content-Length {length} in a body of {len(body)} bytes")
        head = json.loads(body[:header_bytes])
        logits_BC = _find(head["outputs"], body[header_bytes:], output)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnswerError(f"not a V2 answer with output {output!r}: {error!r}") from error
    return _checked(logits_BC, output, rows)


def _checked(logits_BC: NDArray[Any], output: str, rows: int) -> NDArray[Any]:
    if logits_BC.ndim != 2 or len(logits_BC) != rows:
        raise AnswerError(f"output {output!r} has shape {list(logits_BC.shape)} for {rows} rows sent")
    if not np.isfinite(logits_BC).all():
        raise AnswerError(f"output {output!r} holds values that are not finite")
    return logits_BC


def _find(outputs: list[dict[str, Any]], binary: bytes, name: str) -> NDArray[Any]:
    """The named tensor; binary tensors lie one after another in the order of `outputs`."""
    offset = 0
    for tensor in outputs:
        size_bytes = (tensor.get("parameters") or {}).get("binary_data_size")
        if tensor["name"] == name:
            dtype, shape = NUMPY_OF_OUTPUT[tensor["datatype"]], tensor["shape"]
            if size_bytes is None:
                return np.asarray(tensor["data"], dtype=dtype).reshape(shape)
            if size_bytes != math.prod(shape) * dtype.itemsize or offset + size_bytes > len(binary):
                raise ValueError(f"{size_bytes} binary bytes for shape {shape}, {len(binary) - offset} in the body")
            return np.frombuffer(binary, dtype, math.prod(shape), offset).reshape(shape)
        offset += size_bytes or 0
    raise KeyError(name)
