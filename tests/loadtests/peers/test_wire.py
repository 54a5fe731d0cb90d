import json

import numpy as np
import pytest

from loadtests.peers.model import sample_images
from loadtests.peers.wire import V2, Base64, Raw, WireError

IMAGES = sample_images(2)
LOGITS = np.arange(20, dtype=np.float32).reshape(2, 10)


def v2_answer(binary: bool) -> tuple[dict[str, str], bytes]:
    tensor = {"name": "logits", "datatype": "FP32", "shape": [2, 10]}
    if not binary:
        return {}, json.dumps({"outputs": [{**tensor, "data": LOGITS.reshape(-1).tolist()}]}).encode()
    head = json.dumps({"outputs": [{**tensor, "parameters": {"binary_data_size": 80}}]}).encode()
    return {"inference-header-content-length": str(len(head))}, head + LOGITS.tobytes()


def test_a_raw_request_is_the_pixels_alone() -> None:
    assert Raw().post(IMAGES[:1]).body == IMAGES[:1].tobytes()
    np.testing.assert_array_equal(Raw().logits({}, LOGITS[:1].tobytes(), 1), LOGITS[:1])


def test_a_binary_v2_request_says_where_its_json_ends_and_how_long_its_tensor_is() -> None:
    post = V2("/infer").post(IMAGES)
    head_bytes = int(post.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(post.body[:head_bytes])["inputs"]
    assert tensor["shape"] == [2, 3, 32, 32]
    assert tensor["parameters"]["binary_data_size"] == len(post.body) - head_bytes == IMAGES.nbytes


def test_a_json_v2_request_holds_every_pixel() -> None:
    (tensor,) = json.loads(V2("/infer", "json").post(IMAGES).body)["inputs"]
    assert tensor["data"] == IMAGES.reshape(-1).tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_a_v2_answer_is_read_whichever_way_its_tensor_comes(binary: bool) -> None:
    np.testing.assert_array_equal(V2("/infer").logits(*v2_answer(binary), 2), LOGITS)


def test_a_base64_answer_is_read_as_it_was_asked() -> None:
    body = Base64("/p").post(IMAGES).body
    assert len(json.loads(body)["images"]) == 2
    answer = json.dumps([json.loads(Base64("/p").post(row[None].view(np.uint8)).body)["images"][0] for row in LOGITS])
    np.testing.assert_array_equal(Base64("/p").logits({}, answer.encode(), 2), LOGITS)


@pytest.mark.parametrize("wire", [Raw(), V2("/infer"), Base64("/p")])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"error": "no such model"}', b"\x00" * 12])
def test_an_answer_without_the_logits_is_refused(wire: Raw | V2 | Base64, body: bytes) -> None:
    with pytest.raises(WireError):
        wire.logits({}, body, 2)
