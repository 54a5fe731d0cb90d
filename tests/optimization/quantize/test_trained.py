"""Trained models through static and dynamic INT8: their accuracy stays."""

from typing import Any

import numpy as np
import onnx
import pytest

from optimization.quantize.dynamic import quantize_dynamic
from optimization.quantize.static import quantize_static
from optimization.runners.onnx_runtime import onnx_session
from tests.toys import VOCABULARY
from training.encoding import Array, Encoding
from training.task import Task

pytestmark = pytest.mark.slow


def _logits(content: bytes, encoding: Encoding, inputs: Array) -> Array:
    logits: Array = onnx_session(content).run(["logits"], {encoding.input_spec.name: inputs})[0]
    return logits


def _accuracy(content: bytes, task: Task) -> float:
    split = task.splits["report"]
    return float((_logits(content, task.encoding, split.inputs).argmax(axis=1) == split.labels).mean())


def _weights(content: bytes) -> dict[int, int]:
    """Bytes of the initializers by their ONNX element type."""
    held: dict[int, int] = {}
    for tensor in onnx.load_from_string(content).graph.initializer:
        held[tensor.data_type] = held.get(tensor.data_type, 0) + onnx.numpy_helper.to_array(tensor).nbytes
    return held


def _operations(content: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(content).graph.node}


@pytest.fixture(scope="module")
def digits(exported_images: Any) -> Task:
    task: Task = exported_images.task
    return task


@pytest.fixture(scope="module")
def image_pair(exported_images: Any, digits: Task) -> tuple[bytes, bytes]:
    content = exported_images.variant.artifact.model_path.read_bytes()
    return content, quantize_static(content, digits.splits["calibration"].inputs, digits.encoding.input_spec)


@pytest.fixture(scope="module")
def words(exported_texts: Any) -> Task:
    task: Task = exported_texts.task
    return task


@pytest.fixture(scope="module")
def text_pair(exported_texts: Any) -> tuple[bytes, bytes]:
    content = exported_texts.variant.artifact.model_path.read_bytes()
    return content, quantize_dynamic(content)


def test_images_keep_their_accuracy_in_int8(digits: Task, image_pair: tuple[bytes, bytes]) -> None:
    exact, quantized = (_accuracy(content, digits) for content in image_pair)
    assert exact > 0.9
    assert abs(exact - quantized) < 0.02


def test_static_weights_are_int8_and_the_graph_quantizes(image_pair: tuple[bytes, bytes]) -> None:
    exact, quantized = map(_weights, image_pair)
    assert {"QuantizeLinear", "DequantizeLinear"} <= _operations(image_pair[1])
    assert "QuantizeLinear" not in _operations(image_pair[0])
    floats, integers = onnx.TensorProto.FLOAT, onnx.TensorProto.INT8
    assert quantized[integers] > 0.95 * exact[floats] / 4 * 0.95
    assert quantized.get(floats, 0) < 0.1 * exact[floats]


def test_a_quantized_graph_is_smaller(image_pair: tuple[bytes, bytes], text_pair: tuple[bytes, bytes]) -> None:
    assert len(image_pair[1]) < 0.6 * len(image_pair[0])
    assert len(text_pair[1]) < 0.6 * len(text_pair[0])


def test_weights_have_a_scale_a_channel(image_pair: tuple[bytes, bytes]) -> None:
    scales = [
        onnx.numpy_helper.to_array(tensor).size
        for tensor in onnx.load_from_string(image_pair[1]).graph.initializer
        if tensor.name.endswith("_scale")
    ]
    assert {16, 32, 48} <= set(scales)


def test_the_batch_stays_dynamic(digits: Task, image_pair: tuple[bytes, bytes]) -> None:
    inputs = digits.splits["report"].inputs
    whole = _logits(image_pair[1], digits.encoding, inputs[:33])
    parts = [_logits(image_pair[1], digits.encoding, inputs[i : i + 1]) for i in range(33)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_texts_keep_their_accuracy_at_every_length(words: Task, text_pair: tuple[bytes, bytes]) -> None:
    exact, quantized = (_accuracy(content, words) for content in text_pair)
    assert exact > 0.9
    assert abs(exact - quantized) < 0.04
    for shape in ((1, 1), (3, 5), (2, 40)):
        tokens = np.random.default_rng(0).integers(1, VOCABULARY, shape)
        want, got = (_logits(content, words.encoding, tokens) for content in text_pair)
        np.testing.assert_allclose(got, want, atol=0.25)


def test_dynamic_weights_of_embeddings_lstms_and_products_are_int8(text_pair: tuple[bytes, bytes]) -> None:
    exact, quantized = map(_weights, text_pair)
    assert "DynamicQuantizeLSTM" in _operations(text_pair[1])
    # Embeddings become unsigned whatever is asked for, and have one byte a weight as the others do.
    one_byte = quantized[onnx.TensorProto.INT8] + quantized[onnx.TensorProto.UINT8]
    assert one_byte > 0.95 * exact[onnx.TensorProto.FLOAT] / 4
    assert quantized.get(onnx.TensorProto.FLOAT, 0) < 0.2 * exact[onnx.TensorProto.FLOAT]


def test_ranges_come_from_the_calibration_rows(digits: Task, image_pair: tuple[bytes, bytes]) -> None:
    dark = np.zeros((8, 1, 8, 8), np.uint8)
    blind = quantize_static(image_pair[0], dark, digits.encoding.input_spec)
    assert _accuracy(blind, digits) < _accuracy(image_pair[1], digits) - 0.1
