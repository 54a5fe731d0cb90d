import numpy as np
import onnx
import pytest
from onnx import helper

from optimization.quantize.error import QuantizationError
from optimization.quantize.graph import free_outputs, read_graph, to_bytes
from tests.optimization.quantize.graphs import IMAGES, VECTORS, images, model, network, run


def _changed(**constants: np.ndarray) -> bytes:
    made = onnx.load_from_string(network())
    for tensor in made.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(onnx.numpy_helper.from_array(constants[tensor.name], tensor.name))
    content: bytes = made.SerializeToString()
    return content


def test_a_sound_float_graph_is_read() -> None:
    assert [node.op_type for node in read_graph(network()).graph.node][:3] == ["Cast", "Div", "Conv"]


@pytest.mark.parametrize("content", [b"", b"no graph", network()[:100]])
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(QuantizationError, match="are no ONNX model"):
        read_graph(content)


@pytest.mark.parametrize("opset", [12, 99])
def test_an_opset_that_cannot_be_quantized_is_refused_with_its_number(opset: int) -> None:
    nodes = [helper.make_node("Identity", ["vector"], ["logits"])]
    with pytest.raises(QuantizationError, match=rf"the graph's opset is {opset}; 13 to \d+ are accepted"):
        read_graph(model(nodes, {}, VECTORS, 16, opset=opset))


def test_operators_that_nobody_knows_are_named() -> None:
    nodes = [
        helper.make_node("Mystery", ["vector"], ["a"], domain="elsewhere"),
        helper.make_node("Wonder", ["a"], ["logits"]),
    ]
    made = onnx.load_from_string(model(nodes, {}, VECTORS, 16))
    made.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(QuantizationError, match="operators of other makers, elsewhere:Mystery"):
        read_graph(made.SerializeToString())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    weight = np.ones((16, 8, 3, 3), np.float32)
    weight[3, 1, 0, 2] = value
    with pytest.raises(QuantizationError, match="values that are not finite: w1;"):
        read_graph(_changed(w1=weight))


def test_a_lone_infinity_is_a_mask_and_no_weight() -> None:
    nodes = [
        helper.make_node("Constant", [], ["mask"], value_float=0.0),
        helper.make_node("Max", ["vector", "least"], ["logits"]),
    ]
    read_graph(model(nodes, {"least": np.float32(-np.inf)}, VECTORS, 16))
    with pytest.raises(QuantizationError, match="not finite: least;"):
        read_graph(model(nodes, {"least": np.float32(np.nan)}, VECTORS, 16))


def test_a_graph_that_is_quantized_already_is_refused() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["vector", "step"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "step"], ["logits"]),
    ]
    with pytest.raises(QuantizationError, match="quantized already: it has DequantizeLinear, QuantizeLinear; give"):
        read_graph(model(nodes, {"step": np.float32(0.1)}, VECTORS, 16))


def test_what_exporters_note_is_left_out_and_nothing_else() -> None:
    made = onnx.load_from_string(network())
    for part in (made, made.graph, made.graph.node[2], made.graph.input[0], made.graph.output[0]):
        part.metadata_props.add(key="who", value="the exporter" * 50)
    made.graph.node[2].doc_string = "line 3"
    content = to_bytes(made)
    assert b"exporter" not in content and b"line 3" not in content
    np.testing.assert_array_equal(run(content, images(4)), run(network(), images(4)))


def test_outputs_are_freed_of_their_levels_and_what_else_reads_them_still_does() -> None:
    nodes = [
        helper.make_node("Relu", ["vector"], ["x"]),
        helper.make_node("QuantizeLinear", ["x", "step"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "step"], ["logits"]),
    ]
    made = onnx.load_from_string(model(nodes, {"step": np.float32(0.5)}, VECTORS, 16))
    free_outputs(made)
    assert [(node.op_type, list(node.output)) for node in made.graph.node] == [("Relu", ["logits"])]
    assert not made.graph.initializer
    onnx.checker.check_model(made, full_check=True)


def test_the_input_of_a_graph_is_not_renamed_for_its_output() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["vector", "step"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "step"], ["logits"]),
    ]
    made = onnx.load_from_string(model(nodes, {"step": np.float32(0.5)}, VECTORS, 16))
    free_outputs(made)
    assert len(made.graph.node) == 2


def test_images_are_what_the_network_of_these_tests_reads() -> None:
    assert read_graph(network()).graph.input[0].name == IMAGES.name
