from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimization.graphs.check import check_graph
from optimization.graphs.parts import GraphError
from optimization.graphs.soundness import MAX_OPSET, MIN_OPSET
from optimization.runners.onnx_runtime import onnx_session
from tests.optimization.graphs.toy_graphs import BYTES, FLOAT, INPUT, OUTPUT, WEIGHT, linear, model, tensor
from training.encoding import TensorSpec


def _refused(made: onnx.ModelProto, match: str, reads: TensorSpec = INPUT, answers: TensorSpec = OUTPUT) -> None:
    with pytest.raises(GraphError, match=match):
        check_graph(made.SerializeToString(), reads, answers)


def _with(change: Callable[[onnx.ModelProto], Any], made: onnx.ModelProto | None = None) -> onnx.ModelProto:
    made = made or linear()
    change(made)
    return made


def test_a_sound_graph_tells_its_opset_precision_and_operators() -> None:
    found = check_graph(linear().SerializeToString(), INPUT, OUTPUT)
    assert (found.opset, found.precision, found.float_precision) == (18, "fp32", "fp32")
    assert found.operators == {"Cast", "MatMul"}


def test_an_exported_graph_is_sound(exported_images: Any, exported_texts: Any) -> None:
    for exported in (exported_images, exported_texts):
        artifact = exported.variant.artifact
        found = check_graph(artifact.model_path.read_bytes(), artifact.manifest.input, artifact.manifest.output)
        assert found.precision == "fp32"


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x07", b"PK\x03\x04" + bytes(60), b"\x00" * 100])
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    with pytest.raises(GraphError, match=f"these {len(content)} bytes are no ONNX model"):
        check_graph(content, INPUT, OUTPUT)


def test_a_torn_file_is_refused() -> None:
    content = linear().SerializeToString()
    with pytest.raises(GraphError, match="no ONNX model"):
        check_graph(content[: len(content) // 2], INPUT, OUTPUT)


@pytest.mark.parametrize("opset", [MIN_OPSET - 1, MAX_OPSET + 1, 1])
def test_an_opset_out_of_the_range_is_refused_and_the_range_told(opset: int) -> None:
    _refused(linear(opset=opset), rf"opset is {opset}; {MIN_OPSET} to {MAX_OPSET} are accepted.*version_converter")


@pytest.mark.parametrize("opset", [MIN_OPSET, MAX_OPSET])
def test_the_ends_of_the_opset_range_are_accepted_and_run(opset: int) -> None:
    content = linear(opset=opset).SerializeToString()
    assert check_graph(content, INPUT, OUTPUT).opset == opset
    rows = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(onnx_session(content).run(["logits"], {"x": rows})[0], rows @ WEIGHT, rtol=1e-6)


def test_a_graph_without_an_opset_of_onnx_is_refused() -> None:
    def drop(made: onnx.ModelProto) -> None:
        made.opset_import[0].domain = "com.microsoft"

    _refused(_with(drop), "imports 0 opsets")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float, kind: int) -> None:
    weight = WEIGHT.copy()
    weight[2, 1] = bad
    _refused(linear(weight, kind), r"1 weights hold values that are not finite: w;")


def test_a_broken_weight_of_a_subgraph_is_found() -> None:
    def branch(values: list[float]) -> onnx.GraphProto:
        output = helper.make_tensor_value_info("y", FLOAT, [3])
        return helper.make_graph([helper.make_node("Mul", ["v", "v"], ["y"])], "b", [], [output], [tensor("v", values)])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["b"]),
        helper.make_node("If", ["yes"], ["c"], then_branch=branch([1, np.nan, 1]), else_branch=branch([1, 1, 1])),
        helper.make_node("Add", ["b", "c"], ["logits"]),
    ]
    yes = tensor("yes", 1, TensorProto.BOOL)
    _refused(model(nodes, [tensor("w", WEIGHT), yes]), "not finite: v;")


def test_a_broken_constant_node_is_found() -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor("", np.full((4, 3), np.nan))),
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
    ]
    _refused(model(nodes), "not finite: w;")


def test_an_infinite_mask_or_bound_is_let_through() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "mask"], ["b"]),
        helper.make_node("Clip", ["b", "", "most"], ["logits"]),
    ]
    weights = [tensor("w", WEIGHT), tensor("mask", [0, -np.inf, 0]), tensor("most", np.inf)]
    assert check_graph(model(nodes, weights).SerializeToString(), INPUT, OUTPUT).precision == "fp32"


@pytest.mark.parametrize("bias", [[0, np.inf, 0], [1, -np.inf, 2]])
def test_an_infinite_bias_is_no_mask(bias: list[float]) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "bias"], ["logits"])]
    _refused(model(nodes, [tensor("w", WEIGHT), tensor("bias", bias)]), "not finite: bias;")


def test_a_weight_shorter_than_its_shape_is_refused() -> None:
    def cut(made: onnx.ModelProto) -> None:
        weight = made.graph.initializer[0]
        weight.ClearField("float_data")
        weight.raw_data = bytes(8)

    _refused(_with(cut), "the weight 'w' cannot be read")


def test_operators_of_other_makers_are_refused_by_name() -> None:
    nodes = [helper.make_node("Warp", ["x"], ["logits"], domain="acme.ops")]
    _refused(model(nodes, domains=["acme.ops"]), "operators of other makers, acme.ops:Warp")


def test_an_operator_that_the_opset_lacks_is_refused_by_name() -> None:
    _refused(model([helper.make_node("Gelu", ["x"], ["logits"])], opset=18), "opset 18 has no operator Gelu")
    _refused(model([helper.make_node("Upsample", ["x"], ["logits"])], opset=18), "opset 18 has no operator Upsample")


def test_operators_of_the_runtimes_quantizer_and_of_the_models_own_functions_are_known() -> None:
    product = helper.make_node("FusedMatMul", ["x", "w"], ["logits"], domain="com.microsoft")
    content = model([product], [tensor("w", WEIGHT)], domains=["com.microsoft"]).SerializeToString()
    assert check_graph(content, INPUT, OUTPUT).operators == {"FusedMatMul"}
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    own = helper.make_function("own", "times", ["a", "b"], ["c"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("times", ["x", "w"], ["logits"], domain="own")
    made = model([call], [tensor("w", WEIGHT)], domains=["own"], functions=[own])
    assert "MatMul" in check_graph(made.SerializeToString(), INPUT, OUTPUT).operators


def test_a_foreign_operator_inside_of_an_own_function_is_found() -> None:
    body = [helper.make_node("Warp", ["a"], ["c"], domain="acme.ops")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("acme.ops", 1)]
    own = helper.make_function("own", "bend", ["a"], ["c"], body, opsets)
    call = helper.make_node("bend", ["x"], ["logits"], domain="own")
    _refused(model([call], domains=["own"], functions=[own]), "acme.ops:Warp")


@pytest.mark.parametrize("side", ["input", "output"])
def test_other_names_are_refused(side: str) -> None:
    specs = {"input": INPUT, "output": OUTPUT}
    specs[side] = replace(specs[side], name="other")
    _refused(
        linear(), r"reads \['x'\] and answers \['logits'\]; its manifest .*'other'", specs["input"], specs["output"]
    )


def test_another_type_is_refused_and_both_are_named() -> None:
    _refused(linear(), "input 'x' of the graph is FLOAT, its manifest says UINT8", BYTES)
    answers = ("logits", TensorProto.FLOAT16, ("batch", 3))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Cast", ["a"], ["logits"], to=10)]
    _refused(model(nodes, [tensor("w", WEIGHT)], answers=answers), "output 'logits' of the graph is FLOAT16")


@pytest.mark.parametrize("shape", [(1, 4), ("batch", 5), ("batch", 4, 1), (4,)])
def test_another_input_shape_is_refused(shape: tuple[int | str, ...]) -> None:
    _refused(linear(reads=("x", FLOAT, shape)), r"input 'x' of the graph has shape \[.*\], its manifest says \[-1, 4\]")


def test_another_number_of_classes_is_refused() -> None:
    _refused(linear(answers=("logits", FLOAT, ("batch", 7))), r"has shape \[-1, 7\], its manifest says \[-1, 3\]")


def test_an_axis_that_the_graph_leaves_open_fits_a_fixed_one() -> None:
    content = linear(reads=("x", FLOAT, ("batch", "features"))).SerializeToString()
    assert check_graph(content, INPUT, OUTPUT).opset == 18


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    made = linear()
    made.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(WEIGHT, "w"))
    onnx.save(made, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    with pytest.raises(GraphError, match=r"1 weights lie in other files \(w\)"):
        check_graph(path.read_bytes(), INPUT, OUTPUT)


def test_a_malformed_graph_is_refused() -> None:
    nodes = [helper.make_node("MatMul", ["x", "nowhere"], ["logits"])]
    _refused(model(nodes), "malformed")
