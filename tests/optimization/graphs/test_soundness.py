"""One rule behind three doors: what is opened to serve, what is adopted and what is quantized."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimization.adopt.graph import read_graph as adopted
from optimization.graphs.check import check_graph
from optimization.graphs.parts import GraphError
from optimization.graphs.soundness import MAX_OPSET, require_sound
from optimization.quantize.graph import read_graph as quantizable
from tests.optimization.graphs.toy_graphs import INPUT, OUTPUT, WEIGHT, linear, model, tensor
from tests.toys import IMAGES
from training.encoding import Array


def _served(content: bytes, _: Path) -> None:
    check_graph(content, INPUT, OUTPUT)


def _adopted(content: bytes, folder: Path) -> None:
    path = folder / "given.onnx"
    path.write_bytes(content)
    adopted(path, IMAGES)


def _quantized(content: bytes, _: Path) -> None:
    quantizable(content)


def _outside() -> onnx.ModelProto:
    made = linear()
    made.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(WEIGHT, "w"))
    onnx.external_data_helper.set_external_data(made.graph.initializer[0], "weights.bin")
    made.graph.initializer[0].ClearField("raw_data")
    return made


def _spoilt(value: float) -> onnx.ModelProto:
    weight = WEIGHT.copy()
    weight[1, 1] = value
    return linear(weight)


DOORS: tuple[Callable[[bytes, Path], None], ...] = (_served, _adopted, _quantized)
UNSOUND = {
    "no ONNX model": b"no graph",
    "opset is 12; 13 to": linear(opset=12).SerializeToString(),
    f"opset is {MAX_OPSET + 1}; 13 to": linear(opset=MAX_OPSET + 1).SerializeToString(),
    "opset 18 has no operator Gelu": model([helper.make_node("Gelu", ["x"], ["logits"])]).SerializeToString(),
    "operators of other makers, acme:Warp": model(
        [helper.make_node("Warp", ["x"], ["logits"], domain="acme")], domains=["acme"]
    ).SerializeToString(),
    "not finite: w;": _spoilt(np.nan).SerializeToString(),
    "1 weights hold values that are not finite": _spoilt(-np.inf).SerializeToString(),
    "weights lie in other files": _outside().SerializeToString(),
    "malformed": model([helper.make_node("MatMul", ["x", "nowhere"], ["logits"])]).SerializeToString(),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("said", UNSOUND)
def test_what_is_unsound_is_refused_at_every_door_in_the_same_words(
    door: Callable[[bytes, Path], None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        door(UNSOUND[said], tmp_path)


def _after(values: Array | float, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """x -> MatMul -> a -> `nodes`, which read the constant c -> logits."""
    product = helper.make_node("MatMul", ["x", "w"], ["a"])
    return model([product, *nodes], [tensor("w", WEIGHT), tensor("c", values)])


def _infinite_masks() -> dict[str, onnx.ModelProto]:
    add, maximum = helper.make_node("Add", ["a", "c"], ["logits"]), helper.make_node("Max", ["a", "c"], ["logits"])
    sliced = [
        helper.make_node("Constant", [], ["row"], value=tensor("", 0, TensorProto.INT64)),
        helper.make_node("Gather", ["c", "row"], ["mask"]),
        helper.make_node("Add", ["a", "mask"], ["logits"]),
    ]
    chosen = [
        helper.make_node("Equal", ["a", "c"], ["never"]),
        helper.make_node("Where", ["never", "a", "c"], ["logits"]),
    ]
    return {
        "a mask that is added": _after([0, -np.inf, 0], add),
        "a mask by rows": _after([[0, -np.inf, -np.inf], [0, 0, -np.inf]], *sliced),
        "a lone bound": _after(-np.inf, maximum),
        "what is compared and chosen": _after(np.inf, *chosen),
    }


@pytest.mark.parametrize("name", _infinite_masks())
def test_an_infinity_that_means_something_is_let_through(name: str) -> None:
    made = _infinite_masks()[name]
    assert require_sound(made) == 18
    quantizable(made.SerializeToString())


@pytest.mark.parametrize(
    ("values", "operator"),
    [(np.inf, "Add"), (-np.inf, "Mul"), (np.inf, "Div"), ([0, -np.inf, 0], "Mul"), ([1, -np.inf, 0], "Add")],
)
def test_an_infinity_that_is_computed_with_is_a_broken_weight(values: Array | float, operator: str) -> None:
    with pytest.raises(GraphError, match="not finite: c;"):
        require_sound(_after(values, helper.make_node(operator, ["a", "c"], ["logits"])))


@pytest.mark.parametrize(
    "constant",
    [
        helper.make_node("Constant", [], ["c"], value_float=float("nan")),
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, float("inf"), 0.0]),
        helper.make_node("ConstantOfShape", ["three"], ["c"], value=tensor("", [np.nan])),
    ],
)
def test_numbers_that_are_no_tensors_are_looked_at_too(constant: onnx.NodeProto) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        constant,
        helper.make_node("Add", ["a", "c"], ["logits"]),
    ]
    three = tensor("three", [3], TensorProto.INT64)
    with pytest.raises(GraphError, match="not finite: c;"):
        require_sound(model(nodes, [tensor("w", WEIGHT), three]))


def test_a_function_of_the_graphs_own_is_written_out_to_be_quantized() -> None:
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    own = helper.make_function("own", "times", ["a", "b"], ["c"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("times", ["x", "w"], ["logits"], domain="own")
    made = model([call], [tensor("w", WEIGHT)], domains=["own"], functions=[own])
    assert [node.op_type for node in quantizable(made.SerializeToString()).graph.node] == ["MatMul"]
