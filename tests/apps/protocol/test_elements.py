"""BYTES elements in a V2 request over REST: raw with their lengths before them, or as JSON strings."""

import base64

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.protocol.elements import split_elements
from apps.protocol.request import MAX_PAYLOADS
from apps.protocol.rest import parse_infer
from apps.protocol.tensors import ProtocolError
from tests.bounded import bounded
from training.encoding import TensorSpec

IMAGE = TensorSpec("image", "UINT8", (-1, 2))
FLAG = TensorSpec("flag", "BOOL", (-1,))
HALF = TensorSpec("half", "FP16", (-1, 2))
LOGITS = TensorSpec("logits", "FP32", (-1, 2))


def joined(*elements):
    return b"".join(len(item).to_bytes(4, "little") + item for item in elements)


def entry(count, **fields):
    return {"name": "payload", "datatype": "BYTES", "shape": [count], **fields}


def parse(inputs, tail=b"", header_length=True, **rest):
    text = orjson.dumps({"inputs": inputs})
    rest = {"takes_payloads": True, **rest}
    return parse_infer(text + tail, str(len(text)) if header_length else None, [IMAGE], [LOGITS], 64, **rest)


def refusal(inputs, tail=b"", **rest):
    with pytest.raises(ProtocolError) as caught:
        parse(inputs, tail, **rest)
    assert caught.value.status in (400, 413)
    return str(caught.value)


def test_reads_files_as_raw_bytes_and_texts_as_strings():
    raw = joined(b"\x89PNG\xff", b"b")
    request = parse([entry(2, parameters={"binary_data_size": len(raw)})], raw)
    assert request.payloads == (b"\x89PNG\xff", b"b")
    assert (request.rows, request.inputs) == (2, {})
    assert parse([entry(2, data=["good", "größer"])]).payloads == (b"good", "größer".encode())


def test_reads_files_in_json_as_base64_when_told_so():
    text = base64.b64encode(b"\x89PNG\xff").decode()
    assert parse([entry(1, data=[text], parameters={"content_type": "base64"})]).payloads == (b"\x89PNG\xff",)
    assert "no base64 at position 0" in refusal([entry(1, data=["ä%"], parameters={"content_type": "base64"})])


@pytest.mark.parametrize(
    ("given_entry", "tail", "words"),
    [
        (entry(2, parameters={"binary_data_size": 5}), joined(b"a"), "ends after 1 of 2 elements"),
        (entry(1, parameters={"binary_data_size": 5}), b"\x02\x00\x00\x00a", "element 0 of 2 bytes but 1 are left"),
        (entry(1, parameters={"binary_data_size": 6}), joined(b"a") + b"x", "1 bytes after its 1 elements"),
        (entry(1, parameters={"binary_data_size": 4}), joined(b""), "is empty at position 0"),
        (entry(1, parameters={"binary_data_size": 9}), joined(b"a"), "binary_data_size 9 but 5 bytes are left"),
        (entry(1, parameters={"binary_data_size": -1}), joined(b"a"), "binary_data_size -1"),
        (entry(1, parameters={"binary_data_size": "5"}), joined(b"a"), "binary_data_size '5'"),
        (entry(1, parameters={"binary_data_size": 4}), joined(b"a"), "but 0 are left"),
        (entry(1, data=["a"], parameters={"binary_data_size": 5}), joined(b"a"), "both 'data' and 'binary_data_size'"),
        (entry(1, data="a"), b"", "send an array of strings"),
        (entry(2, data=["a"]), b"", "data of 1 items; shape [2] takes 2"),
        (entry(1, data=[1]), b"", "has 1 at position 0; BYTES takes strings"),
        (entry(1, data=[""]), b"", "is empty at position 0"),
        (entry(1, data=["a"], datatype="UINT8"), b"", "datatype 'UINT8'; this model takes BYTES"),
        ({**entry(1, data=["a"]), "shape": [1, 1]}, b"", "shape [1, 1]; this model takes [-1]"),
        (entry(0, data=[]), b"", "at least 1"),
        (entry(MAX_PAYLOADS + 1, data=[]), b"", f"send at most {MAX_PAYLOADS}"),
    ],
)
def test_refuses_elements_that_do_not_fit(given_entry, tail, words):
    assert words in refusal([given_entry], tail)


def test_payloads_come_alone_and_once_and_only_where_they_are_taken():
    image = {"name": "image", "datatype": "UINT8", "shape": [1, 2], "data": [1, 2]}
    assert "'image', 'payload' are given together" in refusal([image, entry(1, data=["a"])])
    assert "'payload' is given twice" in refusal([entry(1, data=["a"]), entry(1, data=["a"])])
    assert "this model has image" in refusal([entry(1, data=["a"])], takes_payloads=False)


@bounded
@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6))
def test_what_is_joined_is_split_again(elements):
    assert split_elements(joined(*elements), "payload", len(elements)) == tuple(elements)


@bounded
@given(st.binary(max_size=40), st.integers(1, 5))
def test_any_bytes_are_split_whole_or_refused(raw, count):
    try:
        elements = split_elements(memoryview(raw), "payload", count)
    except ProtocolError:
        return
    assert joined(*elements) == raw and len(elements) == count


SPECS = (IMAGE, FLAG, HALF)
sizes = st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**63, True, 1.0, "4", None]))
shapes = st.one_of(st.lists(st.integers(0, 3), min_size=1, max_size=2), st.lists(sizes, max_size=3))
entries = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "flag", "half", "payload"]),
        "datatype": st.sampled_from(["UINT8", "BOOL", "FP16", "BYTES"]),
        "shape": shapes,
        "parameters": st.fixed_dictionaries({"binary_data_size": sizes}),
    }
)


@bounded
@given(st.lists(entries, max_size=4), st.binary(max_size=60), st.integers(-3, 3))
def test_whatever_follows_the_json_it_is_read_or_refused(inputs, tail, off):
    text = orjson.dumps({"inputs": inputs})
    body = text + tail
    try:
        request = parse_infer(body, str(len(text) + off), SPECS, [LOGITS], 4, takes_payloads=True)
    except ProtocolError as error:
        assert error.status in (400, 413)
        assert 0 < len(str(error)) < 700
        return
    assert_fits(request)


@bounded
@given(st.integers(1, 4), st.binary(min_size=28, max_size=28), st.integers(-2, 2))
def test_plausible_binary_tensors_are_read_or_refused(rows, tail, surplus):
    """Right sizes, any content: booleans that are none, numbers that are not finite."""
    arrays = [(IMAGE, 2 * rows, [rows, 2]), (FLAG, rows, [rows]), (HALF, 4 * rows, [rows, 2])]
    inputs = [
        {"name": spec.name, "datatype": spec.datatype, "shape": shape, "parameters": {"binary_data_size": size}}
        for spec, size, shape in arrays
    ]
    text = orjson.dumps({"inputs": inputs})
    body = text + tail[: max(0, 7 * rows + surplus)]
    try:
        request = parse_infer(body, str(len(text)), SPECS, [LOGITS], 4, takes_payloads=True)
    except ProtocolError:
        return
    assert surplus == 0 or 7 * rows + surplus > len(tail)
    assert_fits(request)


def assert_fits(request):
    assert 1 <= request.rows <= 4
    assert bool(request.payloads) != bool(request.inputs)
    for spec in SPECS if request.inputs else ():
        values = request.inputs[spec.name]
        assert values.dtype == spec.dtype and spec.admits(values.shape) and np.isfinite(values).all()
