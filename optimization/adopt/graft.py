"""Graft: an ONNX graph gets the input that its Task makes, and the output that is asked for, in place of its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from training.encoding import Encoding, TensorSpec, output_spec

_PREFIX = "given/"  # before all names of the graph, so that none of them is one of those that are added


@dataclass(frozen=True)
class Scaling:
    """(pixel / 255 - mean) / std, as a graph wants its float pixels; one number for all channels or one each."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or not self.std or min(self.std) <= 0:
            raise ValueError(f"mean {list(self.mean)} and std {list(self.std)}: give both, each std above 0")


def graft(model: Any, given: Any, answer: Any, encoding: Encoding, scaling: Scaling | None) -> Any:
    """`model`, whose only input is `given` and only output `answer`, between tensors that are named and shaped as the
    Encoding says; where it reads pixels of another scale, the scaling stands before it. It may be changed in place.
    """
    from onnx import TensorProto, compose, helper

    reads, answers = encoding.input_spec, output_spec(encoding)
    if scaling is None and (given.name, answer.name) == (reads.name, answers.name):
        return model
    made = compose.add_prefix(model, _PREFIX)
    graph = made.graph
    first, last = _PREFIX + given.name, _PREFIX + answer.name
    if scaling is None:
        before = [helper.make_node("Identity", [reads.name], [first])]
    else:
        # (pixel - 255 mean) / (255 std): the same in two operations.
        constants = {
            name: (255 * np.asarray(values, dtype=np.float64)).astype(np.float32).reshape(1, -1, 1, 1)
            for name, values in (("mean", scaling.mean), ("std", scaling.std))
        }
        graph.initializer.extend(
            helper.make_tensor(f"pixel_{name}", TensorProto.FLOAT, value.shape, value.ravel().tolist())
            for name, value in constants.items()
        )
        before = [
            helper.make_node("Cast", [reads.name], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["pixels", "pixel_mean"], ["centred"]),
            helper.make_node("Div", ["centred", "pixel_std"], [first]),
        ]
    after = helper.make_node("Identity", [last], [answers.name])
    nodes = [*before, *graph.node, after]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [value for value in graph.input if value.name != first]  # constants that are listed as inputs
    del graph.input[:]
    graph.input.extend([helper.make_tensor_value_info(reads.name, tensor_kind(reads), _shape(reads)), *kept])
    del graph.output[:]
    graph.output.extend([helper.make_tensor_value_info(answers.name, TensorProto.FLOAT, _shape(answers))])
    return made


def tensor_kind(spec: TensorSpec) -> int:
    """ONNX's number for the type of a tensor."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(spec.dtype))


def _shape(spec: TensorSpec) -> list[int | str]:
    return [size if size != -1 else ("batch" if axis == 0 else "length") for axis, size in enumerate(spec.shape)]
