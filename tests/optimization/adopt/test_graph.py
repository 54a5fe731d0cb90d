from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimization.adopt.graft import Scaling
from optimization.adopt.graph import read_graph
from optimization.graphs.parts import GraphError
from optimization.runners.onnx_runtime import onnx_session
from tests.optimization.adopt.graphs import MEAN, STD, WEIGHTS, logits_of, model, save, scaled
from tests.toys import IMAGES, TEXTS
from training.encoding import Array

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4), dtype=np.uint8)


def _run(content: bytes, pixels: Array) -> Array:
    """By the names that a Runner asks for."""
    answer: Array = onnx_session(content).run(["logits"], {"image": pixels})[0]
    return answer


def test_a_graph_of_bytes_gets_the_names_of_its_task(tmp_path: Path) -> None:
    content = read_graph(save(tmp_path, model(kind=TensorProto.UINT8)), IMAGES)
    np.testing.assert_allclose(_run(content, PIXELS), logits_of(PIXELS.astype(np.float32)), rtol=1e-6)
    made = onnx.load_model_from_string(content)
    assert [axis.dim_param or axis.dim_value for axis in made.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 1, 4, 4,
    ]  # fmt: skip


def test_a_graph_of_floats_gets_its_scaling(tmp_path: Path) -> None:
    content = read_graph(save(tmp_path, model()), IMAGES, Scaling((MEAN,), (STD,)))
    np.testing.assert_allclose(_run(content, PIXELS), logits_of(scaled(PIXELS)), rtol=1e-4, atol=1e-4)


def test_a_graph_that_fits_stays_as_it_is(tmp_path: Path) -> None:
    made = model(reads="image", answers="logits", kind=TensorProto.UINT8)
    assert read_graph(save(tmp_path, made), IMAGES) == made.SerializeToString()


def test_names_that_are_taken_inside_stay_apart(tmp_path: Path) -> None:
    """The graph's own input may be named as the bytes are, and a tensor inside as the logits are."""
    after = [helper.make_node("Neg", ["logits_"], ["logits"]), helper.make_node("Neg", ["logits"], ["image_answer"])]
    made = model(reads="image", answers="image_answer", after=after)
    content = read_graph(save(tmp_path, made), IMAGES, Scaling((MEAN,), (STD,)))
    np.testing.assert_allclose(_run(content, PIXELS), logits_of(scaled(PIXELS)), rtol=1e-4, atol=1e-4)


def test_tokens_of_any_length_are_read(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sums"], keepdims=1),
        helper.make_node("Concat", ["sums", "sums"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "texts",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "l"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content = read_graph(save(tmp_path, made), TEXTS)
    answer = onnx_session(content).run(["logits"], {"tokens": np.array([[1, 2, 3]])})[0]
    np.testing.assert_array_equal(answer, [[6, 6]])
    with pytest.raises(GraphError, match="mean and std are of pixels"):
        read_graph(tmp_path / "given.onnx", TEXTS, Scaling((0.0,), (1.0,)))


def test_a_function_that_the_graph_brings_along_is_no_foreign_operator(tmp_path: Path) -> None:
    twice = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    after = [helper.make_node("Twice", ["logits_"], ["y"], domain="mine")]
    made = model(kind=TensorProto.UINT8, after=after, domains=["mine"], functions=[twice])
    content = read_graph(save(tmp_path, made), IMAGES)
    np.testing.assert_allclose(_run(content, PIXELS), 2 * logits_of(PIXELS.astype(np.float32)), rtol=1e-6)


def _infinite() -> Any:
    return model(weights=np.where(WEIGHTS > 0, np.inf, 0).astype(np.float32))


def _infinite_constant() -> Any:
    value = numpy_helper.from_array(np.array([np.nan], np.float32), "offset")
    return model(
        after=[
            helper.make_node("Constant", [], ["offset"], value=value),
            helper.make_node("Add", ["logits_", "offset"], ["y"]),
        ]
    )


def _half_weights() -> Any:
    made = model()
    made.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float16), "half"))
    return made


def _quantized() -> Any:
    made = model(after=[helper.make_node("QuantizeLinear", ["logits_", "scale"], ["q"]),
                        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"])])  # fmt: skip
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "scale"))
    return made


def _foreign_inside() -> Any:
    """An operator of another domain within a branch of an If."""
    branches = {
        name: helper.make_graph(
            [helper.make_node("Gelu", ["logits_"], [f"{name}_out"], domain="com.microsoft")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    constant = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    return model(after=[constant, helper.make_node("If", ["yes"], ["y"], **branches)], domains=["com.microsoft"])


def _external() -> Any:
    made = model()
    tensor = made.graph.initializer[1]
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    return made


def _two_inputs() -> Any:
    made = model(after=[helper.make_node("Add", ["logits_", "mask"], ["y"])])
    made.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", 3]))
    return made


def _two_outputs() -> Any:
    made = model()
    made.graph.output.append(helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 16]))
    return made


def _cut_weights() -> Any:
    made = model()
    made.graph.initializer[1].raw_data = made.graph.initializer[1].raw_data[:-3]
    return made


SCALING = Scaling((MEAN,), (STD,))


@pytest.mark.parametrize(
    ("made", "scaling", "message"),
    [
        (model(opset=12), SCALING, "the graph's opset is 12; 13 to "),
        (model(opset=999), SCALING, "the graph's opset is 999"),
        (_infinite(), SCALING, "values that are not finite: weights;"),
        (_infinite_constant(), SCALING, "values that are not finite: offset;"),
        (_half_weights(), SCALING, "the weights 'half' are of 16 bits"),
        (_quantized(), SCALING, r"it is quantized \(DequantizeLinear, QuantizeLinear\)"),
        (_foreign_inside(), SCALING, r"not ONNX's own: com\.microsoft::Gelu"),
        (_external(), SCALING, r"1 weights lie in other files \(weights\)"),
        (_cut_weights(), SCALING, "the weight 'weights' cannot be read"),
        (model(before=[helper.make_node("Flatter", ["x"], ["pixels"])]), SCALING, "opset 17 has no operator Flatter"),
        (_two_inputs(), SCALING, "it reads x, mask: it must read one tensor"),
        (_two_outputs(), SCALING, "it answers y, rows: it must answer one tensor"),
        (model(), None, "it reads FLOAT where UINT8 comes: say by which mean and std"),
        (model(kind=TensorProto.UINT8), SCALING, "it reads UINT8 where FLOAT comes: leave out mean and std"),
        (model(), Scaling((0.1, 0.2), (1.0,)), r"mean is \[0\.1, 0\.2\]: give one number, or one a channel of 1"),
        (model(shape=(1, 1, 4, 4), answer_shape=(1, 3)), SCALING, "axis 0 of what it reads is fixed at 1"),
        (
            model(shape=("n", 3, 4, 4), weights=np.ones((48, 3), np.float32)),
            SCALING,
            r"it reads \[None, 3, 4, 4\], where UINT8",
        ),
        (model(answer_shape=None), SCALING, "the graph is malformed: Field 'shape'"),
        (model(shape=("n", 16)), SCALING, r"it reads \[None, 16\], 2 axes, where UINT8"),
        (model(weights=np.ones((16, 4), np.float32), answer_shape=("n", 4)), SCALING, r"it answers \[None, 4\]"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_a_graph_that_cannot_be_taken_over_is_refused_by_name(
    tmp_path: Path, made: Any, scaling: Scaling | None, message: str
) -> None:
    path = save(tmp_path, made)
    with pytest.raises(GraphError, match=message) as caught:
        read_graph(path, IMAGES, scaling)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x09", bytes(200)])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "given.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match="are no ONNX model"):
        read_graph(path, IMAGES)
    with pytest.raises(GraphError, match="there is no graph at"):
        read_graph(tmp_path / "nowhere.onnx", IMAGES)


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, model())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GraphError):
        read_graph(path, IMAGES, SCALING)


def test_a_spread_that_divides_by_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="each std above 0"):
        Scaling((0.5,), (0.0,))
