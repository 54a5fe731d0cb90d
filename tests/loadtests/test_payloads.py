import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loadtests.answers import AnswerError, read_logits
from loadtests.endpoint import ModelMetadata, Tensor
from loadtests.payloads import RequestOptions, infer_requests, png
from loadtests.samples import SampleError, Samples, bundled_digits, samples_for

LOGITS = Tensor("logits", "FP32", (-1, 10))
DIGITS = ModelMetadata("digits", (), Tensor("image", "UINT8", (-1, 1, 8, 8)), LOGITS)
NEWS = ModelMetadata("ag_news", (), Tensor("tokens", "INT64", (-1, -1)), LOGITS)


def split(body: bytes, headers: dict[str, str]) -> tuple[dict[str, Any], bytes]:
    size = int(headers["Inference-Header-Content-Length"])
    return json.loads(body[:size]), body[size:]


def test_bundled_digits_are_scaled_to_bytes_with_light_ink_on_dark_ground() -> None:
    digits = samples_for(DIGITS, None)
    assert digits.inputs.shape == (1797, 1, 8, 8) and digits.inputs.dtype == np.uint8
    assert (digits.inputs.min(), digits.inputs.max()) == (0, 255)
    assert np.median(digits.inputs[:, :, :, 0]) == 0
    assert set(np.unique(digits.inputs)) == {round(value * 255 / 16) for value in range(17)}


def test_binary_request_holds_the_samples_bytes_and_labels() -> None:
    digits = bundled_digits()
    requests = infer_requests(DIGITS, digits, RequestOptions(batch=3), seed=5)
    head, raw = split(requests[0].body, requests[0].headers)
    assert head["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [3, 1, 8, 8], "parameters": {"binary_data_size": 192}}
    ]
    assert head["outputs"] == [{"name": "logits", "parameters": {"binary_data": True}}]
    order = np.random.default_rng(5).permutation(1797)[:3]
    assert raw == digits.inputs[order].tobytes()
    assert requests[0].labels == tuple(digits.labels[order])
    assert requests[0].path == "/v2/models/digits/infer"
    assert len({request.body for request in requests}) == len(requests) == 599


def test_token_ids_lose_the_padding_that_no_row_needs() -> None:
    tokens_NL = np.array([[5, 6, 0, 0, 0], [7, 8, 9, 0, 0]])
    samples = Samples(tokens_NL, np.array([0, 1]), "two texts")
    [request] = infer_requests(NEWS, samples, RequestOptions(batch=2))
    head, raw = split(request.body, request.headers)
    assert head["inputs"][0]["shape"] == [2, 3]
    assert sorted(np.frombuffer(raw, "<i8").reshape(2, 3).tolist()) == [[5, 6, 0], [7, 8, 9]]
    [as_json] = infer_requests(NEWS, samples, RequestOptions(batch=2, binary=False))
    assert json.loads(as_json.body)["inputs"][0]["data"] == np.frombuffer(raw, "<i8").tolist()


def test_batch_larger_than_the_set_repeats_samples() -> None:
    samples = Samples(np.ones((2, 1, 8, 8), np.uint8), np.array([0, 1]), "two")
    [request] = infer_requests(DIGITS, samples, RequestOptions(batch=5))
    assert request.rows == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": np.zeros((4, 3, 32, 32), np.uint8), "labels": np.zeros(4, np.int64)}, "takes UINT8"),
        ({"inputs": np.zeros((4, 1, 8, 8), np.float32), "labels": np.zeros(4, np.int64)}, "float32"),
        ({"inputs": np.zeros((4, 1, 8, 8), np.uint8), "labels": np.zeros(3, np.int64)}, "one each"),
        ({"inputs": np.zeros((0, 1, 8, 8), np.uint8), "labels": np.zeros(0, np.int64)}, "no sample"),
        ({"inputs": np.zeros((4, 1, 8, 8), np.uint8)}, "'labels'"),
        ({"inputs": np.array([{}], dtype=object), "labels": np.zeros(1, np.int64)}, "cannot be read"),
    ],
)
def test_file_that_does_not_fit_the_model_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(SampleError, match=message):
        samples_for(DIGITS, tmp_path / "set.npz")


def test_png_shows_the_sample() -> None:
    grey_CHW, colour_CHW = bundled_digits().inputs[0], np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(grey_CHW)))), grey_CHW[0])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(colour_CHW)))), colour_CHW.transpose(1, 2, 0))


def test_logits_are_found_behind_other_binary_outputs() -> None:
    logits_BC = np.array([[1.5, -2.0]], "<f4")
    outputs = [
        {"name": "probabilities", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
        {"name": "logits", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
    ]
    head = json.dumps({"outputs": outputs}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    assert np.array_equal(read_logits(head + bytes(8) + logits_BC.tobytes(), headers, "logits", 1), logits_BC)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b'{"outputs": []}',
        b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [1.0]}]}',
        b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [2, 1], "data": [1.0, 2.0]}]}',
        b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [1.0, null]}]}',
        b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]}',  # noqa: E501
    ],
)
def test_answer_without_finite_logits_of_all_rows_is_refused(answer: bytes) -> None:
    with pytest.raises(AnswerError):
        read_logits(answer, {}, "logits", 1)
