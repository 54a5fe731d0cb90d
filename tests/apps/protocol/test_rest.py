import random
from typing import Any

import numpy as np
import orjson
import pytest

from apps.protocol.rest import HEADER_LENGTH, InferRequest, ProtocolError, encode_infer, error_body, parse_infer
from training.encoding import NUMPY_OF_DATATYPE, TensorSpec

IMAGE = TensorSpec("image", "UINT8", (-1, 1, 2, 3))
TOKENS = TensorSpec("tokens", "INT64", (-1, -1))
LOGITS = TensorSpec("logits", "FP32", (-1, 4))
EMBEDDING = TensorSpec("embedding", "FP16", (-1, 2))
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3)


def image_entry(**changes: Any) -> dict[str, Any]:
    entry = {"name": "image", "datatype": "UINT8", "shape": [2, 1, 2, 3], "data": PIXELS.ravel().tolist()}
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def binary_body(arrays: dict[str, np.ndarray], datatypes: dict[str, str], **fields: Any) -> tuple[bytes, str]:
    entries = [
        {
            "name": name,
            "shape": list(values.shape),
            "datatype": datatypes[name],
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in arrays.items()
    ]
    text = orjson.dumps({"inputs": entries, **fields})
    return text + b"".join(values.tobytes() for values in arrays.values()), str(len(text))


def parse(body: bytes, header_length: str | None = None, max_rows: int = 8) -> InferRequest:
    return parse_infer(body, header_length, [IMAGE], [LOGITS, EMBEDDING], max_rows)


def parse_fields(**fields: Any) -> InferRequest:
    return parse(orjson.dumps({"inputs": [image_entry()], **fields}))


def parse_values(datatype: str, values: Any, rows: int) -> np.ndarray:
    body = {"inputs": [{"name": "x", "datatype": datatype, "shape": [rows], "data": values}]}
    return parse_infer(orjson.dumps(body), None, [TensorSpec("x", datatype, (-1,))], [LOGITS], 8).inputs["x"]


def refusal(body: bytes, header_length: str | None = None) -> str:
    with pytest.raises(ProtocolError) as caught:
        parse(body, header_length)
    assert caught.value.status == 400
    return str(caught.value)


@pytest.mark.parametrize("data", [PIXELS.ravel().tolist(), PIXELS.tolist()], ids=["flat", "nested"])
def test_reads_json_tensors_flat_and_nested(data: Any) -> None:
    request = parse(orjson.dumps({"inputs": [image_entry(data=data)]}))
    assert request.inputs["image"].dtype == np.uint8
    np.testing.assert_array_equal(request.inputs["image"], PIXELS)
    assert request.rows == 2


def test_reads_binary_tensors_without_a_copy() -> None:
    body, header_length = binary_body({"image": PIXELS}, {"image": "UINT8"})
    values = parse(body, header_length).inputs["image"]
    np.testing.assert_array_equal(values, PIXELS)
    assert np.shares_memory(values, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("padding", range(8))
def test_hands_out_aligned_numbers_wherever_the_json_ends(padding: int) -> None:
    tokens = np.array([[1, -2, 3]], dtype=np.int64)
    body, header_length = binary_body({"tokens": tokens}, {"tokens": "INT64"}, id="x" * padding)
    values = parse_infer(body, header_length, [TOKENS], [LOGITS], 8).inputs["tokens"]
    assert values.flags.aligned
    np.testing.assert_array_equal(values, tokens)


def test_reads_several_inputs_in_the_order_sent_binary_beside_json() -> None:
    entries = [
        {"name": "tokens", "shape": [2, 1], "datatype": "INT64", "parameters": {"binary_data_size": 16}},
        {"name": "flag", "shape": [2], "datatype": "BOOL", "data": [True, False]},
        {"name": "image", "shape": [2, 1, 2, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 12}},
    ]
    text = orjson.dumps({"inputs": entries})
    body = text + np.array([7, 8], np.int64).tobytes() + PIXELS.tobytes()
    specs = [IMAGE, TOKENS, TensorSpec("flag", "BOOL", (-1,))]
    inputs = parse_infer(body, str(len(text)), specs, [LOGITS], 8).inputs
    assert inputs["tokens"].tolist() == [[7], [8]]
    assert inputs["flag"].tolist() == [True, False]
    np.testing.assert_array_equal(inputs["image"], PIXELS)


@pytest.mark.parametrize("datatype", NUMPY_OF_DATATYPE)
@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_survives_parse_and_encode(datatype: str, binary: bool) -> None:
    values = np.array([[1, 0], [1, 1]], dtype=NUMPY_OF_DATATYPE[datatype])
    if values.dtype.kind == "f":
        values[0, 0] = 1 / 3
    if values.dtype.kind == "i":
        values[0, 0] = np.iinfo(values.dtype).min
    spec = TensorSpec("x", datatype, (-1, 2))
    if binary:
        body, header_length = binary_body({"x": values}, {"x": datatype}, parameters={"binary_data_output": True})
    else:
        body = orjson.dumps(
            {"inputs": [{"name": "x", "datatype": datatype, "shape": [2, 2], "data": values.tolist()}]},
        )
        header_length = None
    request = parse_infer(body, header_length, [spec], [spec], 8)
    assert request.inputs["x"].dtype == values.dtype
    np.testing.assert_array_equal(request.inputs["x"], values)

    reply, headers = encode_infer(request, "m", "1", request.inputs, {})
    size = int(headers.get(HEADER_LENGTH, len(reply)))
    (tensor,) = orjson.loads(reply[:size])["outputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("x", datatype, [2, 2])
    if binary:
        assert tensor["parameters"] == {"binary_data_size": values.nbytes} and "data" not in tensor
        got = np.frombuffer(reply[size:], values.dtype).reshape(2, 2)
    else:
        got = np.array(tensor["data"], values.dtype).reshape(2, 2)
    np.testing.assert_array_equal(got, values)


def test_reads_what_tritonclient_sends() -> None:
    text = (
        b'{"id":"7","inputs":[{"name":"image","shape":[2,1,2,3],"datatype":"UINT8",'
        b'"parameters":{"binary_data_size":12}}],"parameters":{"binary_data_output":true}}'
    )
    request = parse(text + PIXELS.tobytes(), str(len(text)))
    assert request.id == "7"
    assert [(output.name, output.binary) for output in request.outputs] == [("logits", True), ("embedding", True)]


def test_null_counts_as_absent_as_pydantic_clients_send_it() -> None:
    request = parse_fields(id=None, outputs=None, parameters={"content_type": None, "mode": "teacher", "n": 2})
    assert request.id is None
    assert request.parameters == {"mode": "teacher", "n": 2}
    assert [output.name for output in request.outputs] == ["logits", "embedding"]


def test_an_output_says_itself_whether_it_is_binary_before_the_request_does() -> None:
    request = parse_fields(
        parameters={"binary_data_output": True},
        outputs=[{"name": "embedding", "parameters": {"binary_data": False}}, {"name": "logits"}],
    )
    assert [(output.name, output.binary) for output in request.outputs] == [("embedding", False), ("logits", True)]


OBJECT_REFUSALS = [
    ({"id": 7}, "id is 7"),
    ({"id": True}, "id is true"),
    ({"inputs": ...}, "inputs is missing"),
    ({"inputs": []}, "inputs is []"),
    ({"inputs": {"image": 1}}, "inputs is an object"),
    ({"inputs": [3]}, "inputs holds 3"),
    ({"inputs": [image_entry(), image_entry()]}, "'image' is given twice"),
    ({"parameters": [1]}, "parameters of the request are [1]"),
    ({"parameters": {"a": {"b": 1}}}, "parameter 'a' of the request is an object"),
    ({"parameters": {"binary_data_output": 1}}, "'binary_data_output' is 1"),
    ({"outputs": 3}, "outputs is 3"),
    ({"outputs": ["logits"]}, "outputs holds 'logits'"),
    ({"outputs": [{"name": "scores"}]}, "output name is 'scores'; this model has"),
    ({"outputs": [{}]}, "output name is missing"),
    ({"outputs": [{"name": ["logits"]}]}, "output name is an array"),
    ({"outputs": [{"name": "logits"}, {"name": "logits"}]}, "'logits' is given twice"),
    ({"outputs": [{"name": "logits", "parameters": {"classification": 3}}]}, "classification 3"),
    ({"outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]}, "'binary_data' is 'yes'"),
    ({"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}]}, "shared memory is not supported"),
]


@pytest.mark.parametrize(("fields", "message"), OBJECT_REFUSALS)
def test_refuses_a_malformed_request(fields: dict[str, Any], message: str) -> None:
    body = {"inputs": [image_entry()], **fields}
    assert message in refusal(orjson.dumps({key: value for key, value in body.items() if value is not ...}))


INPUT_REFUSALS = [
    ({"name": ...}, "input name is missing"),
    ({"name": "picture"}, "input name is 'picture'; this model has image"),
    ({"name": {"a": 1}}, "input name is an object"),
    ({"datatype": ...}, "datatype missing"),
    ({"datatype": "FP32"}, "datatype 'FP32'; this model takes UINT8"),
    ({"datatype": "UINT9"}, "'UINT9', which is not known"),
    ({"datatype": ["UINT8"]}, "datatype an array"),
    ({"shape": ...}, "shape missing"),
    ({"shape": 12}, "shape 12"),
    ({"shape": [2, 2, 3]}, "shape [2, 2, 3]; this model takes [-1, 1, 2, 3]"),
    ({"shape": [2, 1, 3, 2]}, "shape [2, 1, 3, 2]; this model takes"),
    ({"shape": [2, 1, 2, 3.0]}, "shape [2, 1, 2, 3.0]"),
    ({"shape": [True, 1, 2, 3]}, "shape [true, 1, 2, 3]"),
    ({"shape": ["2", 1, 2, 3]}, "shape an array of 4 items"),
    ({"shape": [2] * 100_000}, "shape an array of 100000 items"),
    ({"shape": [-1, 1, 2, 3]}, "shape [-1, 1, 2, 3]; send at least 1"),
    ({"shape": [-(2**63), 1, 2, 3]}, "send at least 1"),
    ({"shape": [0, 1, 2, 3], "data": []}, "shape [0, 1, 2, 3]; send at least 1"),
    ({"shape": [3, 1, 2, 3]}, "data of 12 items; shape [3, 1, 2, 3] takes 18 numbers"),
    ({"data": ...}, "data missing"),
    ({"data": "AAAA"}, "data 'AAAA'"),
    ({"data": []}, "data of 0 items"),
    ({"data": [0] * 13}, "data of 13 items"),
    ({"data": PIXELS.tolist()[:1]}, "data of 1 items along axis 0"),
    ({"data": [PIXELS.tolist()[0], 5]}, "data of 5 along axis 1"),
    ({"data": [[[[1, 2, 3], [4, 5]]], [[[1, 2, 3], [4, 5, 6]]]]}, "data of [4, 5] along axis 3"),
    ({"data": [[[[1, 2, [3]], [4, 5, 6]]], [[[1, 2, 3], [4, 5, 6]]]]}, "has [3] at position 2"),
    ({"data": [PIXELS[0].ravel().tolist(), PIXELS[1].ravel().tolist()]}, "along axis 1"),
    ({"parameters": 5}, "parameters of input 'image' are 5"),
    ({"parameters": {"binary_data_size": 12}}, "both 'data' and 'binary_data_size'"),
    ({"parameters": {"shared_memory_region": "r"}, "data": ...}, "shared memory is not supported"),
]


@pytest.mark.parametrize(("changes", "message"), INPUT_REFUSALS)
def test_refuses_a_malformed_input(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(orjson.dumps({"inputs": [image_entry(**changes)]}))


@pytest.mark.parametrize("datatype", ["UINT8", "INT32", "INT64", "FP16", "FP32", "FP64"])
@pytest.mark.parametrize("value", [True, "1", None, [1], {"a": 1}])
def test_refuses_what_is_no_number(datatype: str, value: Any) -> None:
    with pytest.raises(ProtocolError, match=f"at position 1 of its flat data; {datatype} takes"):
        parse_values(datatype, [1, value], 2)


@pytest.mark.parametrize(
    ("datatype", "value", "message"),
    [
        ("UINT8", 256, "has 256 at position 1 of its flat data; UINT8 takes whole numbers from 0 to 255"),
        ("UINT8", -1, "has -1 at position 1"),
        ("UINT8", 1.5, "has 1.5 at position 1"),
        ("UINT8", 1.0, "has 1.0 at position 1"),
        ("INT32", 2**31, "has 2147483648 at position 1"),
        ("INT64", 2**63, "has 9223372036854775808 at position 1"),
        ("INT64", 1e30, "has 1e+30 at position 1"),
        ("FP16", 70_000, "non-finite at position 1 of its flat data; send finite numbers up to 65504"),
        ("FP32", 1e39, "non-finite at position 1"),
        ("FP32", -1e39, "non-finite at position 1"),
        ("BOOL", 1, "has 1 at position 1 of its flat data; BOOL takes true or false"),
        ("BOOL", "true", "has 'true' at position 1"),
    ],
)
def test_refuses_values_out_of_range_instead_of_wrapping_them(datatype: str, value: Any, message: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_values(datatype, [datatype == "BOOL" or 1, value], 2)
    assert message in str(caught.value)


def test_the_word_true_elsewhere_does_not_make_numbers_booleans() -> None:
    np.testing.assert_array_equal(parse_fields(parameters={"allow_fallback": True}).inputs["image"], PIXELS)


def test_refuses_a_missing_input() -> None:
    with pytest.raises(ProtocolError, match="no input 'tokens'; this model takes image, tokens"):
        parse_infer(orjson.dumps({"inputs": [image_entry()]}), None, [IMAGE, TOKENS], [LOGITS], 8)


def test_refuses_inputs_that_differ_in_rows() -> None:
    tokens = {"name": "tokens", "datatype": "INT64", "shape": [1, 1], "data": [4]}
    with pytest.raises(ProtocolError, match="inputs differ in rows"):
        parse_infer(orjson.dumps({"inputs": [image_entry(), tokens]}), None, [IMAGE, TOKENS], [LOGITS], 8)


def test_more_rows_than_allowed_are_content_too_large() -> None:
    body = orjson.dumps({"inputs": [image_entry()]})
    assert parse(body, max_rows=2).rows == 2
    with pytest.raises(ProtocolError, match="2 rows; send at most 1") as caught:
        parse(body, max_rows=1)
    assert caught.value.status == 413


@pytest.mark.parametrize("huge", [2**31, 2**32, 2**62, 2**64 - 1])
def test_a_huge_shape_does_not_overflow(huge: int) -> None:
    entry = {"name": "tokens", "datatype": "INT64", "shape": [4, huge], "parameters": {"binary_data_size": 0}}
    for given in (entry, {**entry, "parameters": {}, "data": []}):
        text = orjson.dumps({"inputs": [given]})
        with pytest.raises(ProtocolError, match=str(4 * huge) if "data" in given else str(32 * huge)):
            parse_infer(text, str(len(text)), [TOKENS], [LOGITS], 8)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs": [NaN]}',
        b'{"inputs": [Infinity]}',
        b'{"inputs": [1e999]}',
        b"\xff\xfe",
        b'{"id": "\\ud800"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_refuses_what_is_no_json(body: bytes) -> None:
    assert "not valid JSON" in refusal(body)


@pytest.mark.parametrize("field", ["id", "inputs", "outputs", "parameters"])
def test_refuses_deep_nesting_with_a_short_message(field: str) -> None:
    deep = b"[" * 1000 + b"]" * 1000
    assert len(refusal(b'{"' + field.encode() + b'":' + deep + b"}")) < 400


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"text"', b"true"])
def test_refuses_json_that_is_no_object(body: bytes) -> None:
    assert "send a JSON object" in refusal(body)


@pytest.mark.parametrize("value", ["x" * 1_000_000, ["y" * 1_000_000], [[0] * 100_000]])
def test_messages_stay_short_whatever_was_sent(value: Any) -> None:
    assert len(refusal(orjson.dumps({"inputs": [image_entry(name=value)]}))) < 400


@pytest.mark.parametrize("header_length", ["", "x", "-1", "+5", "1.5", "1_0", " 5", "5, 5", "٣", "9" * 5000])
def test_refuses_a_header_length_that_is_no_length(header_length: str) -> None:
    body, _ = binary_body({"image": PIXELS}, {"image": "UINT8"})
    assert "send the JSON's length in bytes" in refusal(body, header_length)


def test_refuses_a_header_length_beyond_the_body() -> None:
    assert "is 3 but the body has 2 bytes" in refusal(b"{}", "3")


def test_refuses_truncated_and_surplus_binary_data() -> None:
    body, header_length = binary_body({"image": PIXELS}, {"image": "UINT8"})
    assert "needs 12 bytes but 11 are left" in refusal(body[:-1], header_length)
    assert "3 bytes after its last tensor" in refusal(body + b"xyz", header_length)
    assert HEADER_LENGTH in refusal(body[: int(header_length)])
    assert HEADER_LENGTH in refusal(body)


@pytest.mark.parametrize("size", [11, 13, -12, 0, 12.0, "12", True, 2**64 - 1])
def test_refuses_a_binary_size_that_the_shape_does_not_take(size: Any) -> None:
    text = orjson.dumps({"inputs": [image_entry(data=..., parameters={"binary_data_size": size})]})
    assert "shape [2, 1, 2, 3] of UINT8 takes 12 bytes" in refusal(text + PIXELS.tobytes(), str(len(text)))


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_non_finite_binary_values(datatype: str, value: float) -> None:
    values = np.array([1, value], dtype=NUMPY_OF_DATATYPE[datatype])
    body, header_length = binary_body({"x": values}, {"x": datatype})
    with pytest.raises(ProtocolError, match="non-finite at position 1"):
        parse_infer(body, header_length, [TensorSpec("x", datatype, (-1,))], [LOGITS], 8)


def test_refuses_binary_booleans_other_than_0_and_1() -> None:
    body, header_length = binary_body({"x": np.array([1, 2], dtype=np.uint8)}, {"x": "BOOL"})
    with pytest.raises(ProtocolError, match="other than 0 and 1"):
        parse_infer(body, header_length, [TensorSpec("x", "BOOL", (-1,))], [LOGITS], 8)


def test_encodes_json_and_binary_outputs_together() -> None:
    request = parse_fields(
        id="a-1", outputs=[{"name": "logits"}, {"name": "embedding", "parameters": {"binary_data": True}}]
    )
    logits_BC = np.array([[0.1, -2, 3, 4], [5, 6, 7, 8]], dtype=np.float32)
    embedding = np.array([[1, 2], [3, 4]], dtype=np.float16).T
    parameters = {"release": "3", "deferred": 1, "confidence": 0.5, "fallback": False}
    body, headers = encode_infer(request, "digits", "3", {"logits": logits_BC, "embedding": embedding}, parameters)
    assert headers["Content-Type"] == "application/octet-stream"
    size = int(headers[HEADER_LENGTH])
    reply = orjson.loads(body[:size])
    assert {key: reply[key] for key in ("model_name", "model_version", "id", "parameters")} == {
        "model_name": "digits",
        "model_version": "3",
        "id": "a-1",
        "parameters": parameters,
    }
    first, second = reply["outputs"]
    np.testing.assert_array_equal(np.array(first["data"], np.float32).reshape(first["shape"]), logits_BC)
    assert second["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(body[size:], np.float16).reshape(2, 2), embedding)


def test_encodes_only_requested_outputs_and_leaves_absent_fields_out() -> None:
    request = parse_fields(outputs=[{"name": "logits"}])
    values = np.array([[1, np.nan, 3, 4]], dtype=np.float32)
    body, headers = encode_infer(request, "m", "1", {"logits": values, "embedding": values}, {})
    assert headers == {"Content-Type": "application/json"}
    assert orjson.loads(body) == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 4], "data": [1, None, 3, 4]}],
    }


def test_error_body_holds_any_message() -> None:
    assert orjson.loads(error_body('bad "name"')) == {"error": 'bad "name"'}
    assert orjson.loads(error_body("\ud800")) == {"error": "?"}


HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, 2**31, 2**63, 2**64 - 1, -(2**63), "", "image", "INT64", "\x00", "9" * 999),
    *([], {}, [[]], [{}], [None], [0] * 12, ["a"], {"name": "image"}, {"binary_data_size": 12}, [[[[[[[1]]]]]]]),
]


def mutated_tree(tree: Any, rng: random.Random) -> Any:
    """`tree` with one value, at any depth, replaced, removed or doubled."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.15:
        return rng.choice(HOSTILE)
    changed = tree.copy()
    key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
    action = rng.random()
    if action < 0.1:
        del changed[key]
    elif action < 0.2 and isinstance(changed, list):
        changed.insert(key, changed[key])
    else:
        changed[key] = mutated_tree(tree[key], rng)
    return changed


def mutated_bytes(body: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(body))
    return rng.choice(
        [
            body[:at],
            body[at:],
            body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :],
            body[:at] + bytes([body[at] ^ (1 << rng.randrange(8))]) + body[at + 1 :],
            body[:at] + rng.randbytes(rng.randrange(1, 9)) + body[at:],
            body[:at] + body[at + rng.randrange(1, 9) :],
            body[:at] + rng.choice([b"1e999", b"NaN", b"[", b"]", b"null", b"true", b'"', b"-"]) + body[at:],
        ]
    )


def seeds() -> list[tuple[Any, bytes]]:
    """Valid requests as (JSON tree, binary tail)."""
    weights = {"name": "weights", "shape": [2, 2], "datatype": "FP32"}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "embedding"}]
    fields = {"id": "1", "parameters": {"binary_data_output": False, "mode": "cascade"}, "outputs": outputs}
    binary = [
        image_entry(data=..., parameters={"binary_data_size": 12}),
        {**weights, "parameters": {"binary_data_size": 16}},
    ]
    return [
        ({**fields, "inputs": binary}, PIXELS.tobytes() + np.ones((2, 2), np.float32).tobytes()),
        ({**fields, "inputs": [image_entry(), {**weights, "data": [1, 2.5, -3, 1e9]}]}, b""),
        ({"inputs": [image_entry(data=PIXELS.tolist()), {**weights, "data": [[1, 2.5], [-3, 0]]}]}, b""),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_mutated_requests_are_answered_or_refused_but_never_break(seed: int) -> None:
    rng = random.Random(seed)
    specs = [IMAGE, TensorSpec("weights", "FP32", (-1, 2))]
    answered = refused = 0
    for _ in range(3000):
        tree, tail = rng.choice(seeds())
        by_tree = rng.random() < 0.5
        text = orjson.dumps(mutated_tree(tree, rng) if by_tree else tree)
        header_length = str(len(text)) if tail else None
        body = text + tail if by_tree else mutated_bytes(text + tail, rng)
        if rng.random() < 0.05:
            header_length = rng.choice([None, "0", str(rng.randrange(len(text) + 40)), "-3", "1e3"])
        try:
            request = parse_infer(body, header_length, specs, [LOGITS, EMBEDDING], 4)
        except ProtocolError as error:
            refused += 1
            assert 400 <= error.status < 500
            assert 0 < len(str(error)) < 700
            continue
        answered += 1
        assert sorted(request.inputs) == ["image", "weights"]
        for spec in specs:
            values = request.inputs[spec.name]
            assert values.dtype == spec.dtype and spec.admits(values.shape)
            assert 1 <= len(values) <= 4 and np.isfinite(values).all()
        rows = request.rows
        replies = {"logits": np.ones((rows, 4), np.float32), "embedding": np.ones((rows, 2), np.float16)}
        encode_infer(request, "m", "1", replies, {})
    assert answered > 100 and refused > 1000
