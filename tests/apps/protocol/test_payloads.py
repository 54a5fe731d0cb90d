"""What a person has, as V2 BYTES, becomes the rows that the model reads; what cannot be read is refused."""

import asyncio
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from apps.protocol.payloads import encode_payloads
from apps.protocol.request import InferRequest
from tests.apps.test_ingress import IMAGE, LENGTH, Served
from tests.toys import TEXTS, VOCABULARY, WORDS
from training.data.tokenizer import train_tokenizer
from training.encoding import Encoder, ImageEncoding, PayloadError

IMAGES = ImageEncoding(height=2, width=2, channels=1, labels=("a", "b"))


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()


def encode(encoder, *payloads):
    with ThreadPoolExecutor(1) as decoders:
        return asyncio.run(encode_payloads(InferRequest("7", {}, {"mode": "student"}, (), payloads), encoder, decoders))


def text_encoder():
    return Encoder(TEXTS, {TEXTS.tokenizer_file: train_tokenizer([WORDS] * 4, VOCABULARY)})


def test_image_files_become_rows():
    first, second = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
    request = encode(Encoder(IMAGES), png(first), png(second))
    np.testing.assert_array_equal(request.inputs["image"], np.array([[first], [second]], np.uint8))
    assert (request.id, request.parameters, request.payloads) == ("7", {"mode": "student"}, ())


def test_texts_become_padded_tokens():
    encoder = text_encoder()
    tokens = encode(encoder, b"sea", b"sea sun wind").inputs["tokens"]
    assert tokens.shape == (2, len(encoder.encode("sea sun wind")))
    assert tokens[0, 0] == encoder.encode("sea")[0] and tokens[0, -1] == TEXTS.pad_id


def test_a_request_without_payloads_stays_as_it_is():
    request = InferRequest(None, {"image": np.zeros((1, 1, 2, 2), np.uint8)}, {}, ())
    assert asyncio.run(encode_payloads(request, Encoder(IMAGES), None)) is request


def test_the_payload_that_cannot_be_read_is_named():
    with pytest.raises(PayloadError, match=r"^payload 1: not a PNG or JPEG"):
        encode(Encoder(IMAGES), png([[1, 2], [3, 4]]), b"GIF89a")
    with pytest.raises(PayloadError, match=r"^not a PNG or JPEG"):
        encode(Encoder(IMAGES), b"GIF89a")
    with pytest.raises(PayloadError, match="the text is not UTF-8"):
        encode(text_encoder(), b"\xff\xfe")


def test_a_decoder_that_breaks_is_the_payloads_fault():
    class Broken(Encoder):
        def encode(self, payload):
            raise MemoryError("inside")

    with pytest.raises(PayloadError, match="cannot be read: MemoryError"):
        encode(Broken(IMAGES), b"x")


def test_a_cancelled_request_decodes_no_more():
    decoded, may_go_on = [], threading.Event()

    class Slow(Encoder):
        def encode(self, payload):
            decoded.append(payload)
            may_go_on.wait(10)
            return np.zeros((1, 2, 2), np.uint8)

    async def ask_and_leave(decoders):
        task = asyncio.create_task(
            encode_payloads(InferRequest(None, {}, {}, (), (b"a", b"b", b"c")), Slow(IMAGES), decoders)
        )
        while not decoded:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_go_on.set()

    with ThreadPoolExecutor(1) as decoders:
        asyncio.run(ask_and_leave(decoders))
    assert decoded == [b"a"]


def test_an_image_file_is_answered_over_v2_as_over_v1():
    endpoint, file = Served(Encoder(IMAGE)), png([[10, 255], [0, 0]])
    raw = len(file).to_bytes(4, "little") + file
    entry = {"name": "payload", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [entry]}).encode()
    response = endpoint.ask("POST", "/v2/models/tiny/infer", content=text + raw, headers={LENGTH: str(len(text))})
    assert response.status_code == 200, response.text
    as_file = endpoint.ask("POST", "/v1/models/tiny:predict", content=file, headers={"content-type": "image/png"})
    assert as_file.json()["predictions"][0]["label"] == "b"
    assert int(np.argmax(response.json()["outputs"][0]["data"])) == 1
