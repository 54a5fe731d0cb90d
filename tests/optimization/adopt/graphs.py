"""Graphs of 4x4 grey images into three classes, as someone else might have made them: a linear map of the pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.encoding import Array

MEAN, STD = 0.3, 0.25
# The class is the row of pixels that is bright: sum up each of the first three rows.
WEIGHTS = np.kron(np.eye(4), np.ones((4, 1)))[:, :3].astype(np.float32)


def logits_of(pixels_BCHW: NDArray[np.floating[Any]], weights: Array = WEIGHTS) -> Array:
    logits: Array = pixels_BCHW.reshape(len(pixels_BCHW), -1) @ weights
    return logits


def scaled(images_BCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    return ((images_BCHW.astype(np.float64) / 255 - MEAN) / STD).astype(np.float32)


def model(
    *,
    reads: str = "x",
    answers: str = "y",
    kind: int = TensorProto.FLOAT,
    shape: Sequence[int | str] = ("n", 1, 4, 4),
    answer_shape: Sequence[int | str] | None = ("n", 3),
    weights: Array = WEIGHTS,
    opset: int = 17,
    before: Sequence[Any] = (),
    after: Sequence[Any] = (),
    domains: Sequence[str] = (),
    flat: Sequence[int] = (0, -1),
    functions: Sequence[Any] = (),
) -> Any:
    """`before` nodes lead from `reads` to "pixels", `after` nodes from "logits_" to `answers`."""
    source = "pixels" if before else reads
    nodes = [
        *before,
        helper.make_node("Cast", [source], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits_" if after else answers]),
        *after,
    ]
    constants = {"flat": np.array(flat, np.int64), "weights": weights}
    graph = helper.make_graph(
        nodes,
        "given",
        [helper.make_tensor_value_info(reads, kind, shape)],
        [helper.make_tensor_value_info(answers, TensorProto.FLOAT, answer_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)


def save(folder: Path, made: Any, name: str = "given.onnx") -> Path:
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path
