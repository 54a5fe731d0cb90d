"""gRPC messages to requests: understood as JSON is, and refused with the same words."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.protocol.grpc_codec import CONTENTS_OF_DATATYPE, decode_infer, decode_parameters, encode_infer
from apps.protocol.grpc_protocol_pb2 import ModelInferRequest, ModelInferResponse
from apps.protocol.request import MAX_PAYLOADS
from apps.protocol.rest import parse_infer
from apps.protocol.tensors import ProtocolError
from tests.bounded import bounded
from training.encoding import NUMPY_OF_DATATYPE, TensorSpec

IMAGE = TensorSpec("image", "UINT8", (-1, 1, 2, 3))
LOGITS = TensorSpec("logits", "FP32", (-1, 4))
EMBEDDING = TensorSpec("embedding", "FP16", (-1, 2))
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3)
RAW = PIXELS.tobytes()


def message(name="image", datatype="UINT8", shape=(2, 1, 2, 3), raw=RAW, **fields):
    request = ModelInferRequest(model_name="m", **fields)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def typed(datatype, values, shape, field=None):
    request = message("x", datatype, shape, raw=None)
    getattr(request.inputs[0].contents, field or CONTENTS_OF_DATATYPE[datatype]).extend(values)
    return request


def decode(request, inputs=(IMAGE,), outputs=(LOGITS, EMBEDDING), max_rows=8, takes_payloads=True):
    # Over the wire and back, as a server sees it.
    return decode_infer(
        ModelInferRequest.FromString(request.SerializeToString()), inputs, outputs, max_rows, takes_payloads
    )


def refusal(request, **rest):
    with pytest.raises(ProtocolError) as caught:
        decode(request, **rest)
    return str(caught.value)


def test_reads_raw_contents():
    request = decode(message(id="7"))
    np.testing.assert_array_equal(request.inputs["image"], PIXELS)
    assert request.id == "7"
    assert decode(message()).id is None


@pytest.mark.parametrize("datatype", NUMPY_OF_DATATYPE)
def test_every_datatype_goes_in_and_out_raw(datatype):
    values = np.array([[1, 0], [1, 1]], NUMPY_OF_DATATYPE[datatype])
    spec = TensorSpec("x", datatype, (-1, 2))
    request = decode(message("x", datatype, (2, 2), values.tobytes()), [spec], [spec])
    assert request.inputs["x"].dtype == values.dtype
    reply = encode_infer(request, "m", "3", request.inputs, {})
    (tensor,) = reply.outputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", datatype, [2, 2])
    assert list(reply.raw_output_contents) == [values.tobytes()]
    assert not tensor.HasField("contents")


@pytest.mark.parametrize("datatype", sorted(set(NUMPY_OF_DATATYPE) - {"FP16"}))
def test_typed_contents_go_in_and_come_back_typed(datatype):
    values = np.array([[1, 0], [1, 1]], NUMPY_OF_DATATYPE[datatype])
    spec = TensorSpec("x", datatype, (-1, 2))
    request = decode(typed(datatype, values.ravel().tolist(), (2, 2)), [spec], [spec])
    np.testing.assert_array_equal(request.inputs["x"], values)
    assert request.inputs["x"].dtype == values.dtype
    reply = encode_infer(request, "m", "3", request.inputs, {})
    assert not reply.raw_output_contents
    assert list(getattr(reply.outputs[0].contents, CONTENTS_OF_DATATYPE[datatype])) == values.ravel().tolist()


def test_half_floats_are_sent_raw_whatever_was_asked_for():
    request = decode(message(parameters={"binary_data_output": {"bool_param": False}}), outputs=[EMBEDDING])
    half = np.ones((2, 2), np.float16)
    assert list(encode_infer(request, "m", "1", {"embedding": half}, {}).raw_output_contents) == [half.tobytes()]


def test_a_parameter_overrides_the_form_of_the_outputs():
    request = decode(message(parameters={"binary_data_output": {"bool_param": False}}), outputs=[LOGITS])
    reply = encode_infer(request, "m", "1", {"logits": np.ones((2, 4), np.float32)}, {})
    assert list(reply.outputs[0].contents.fp32_contents) == [1.0] * 8


def test_parameters_keep_their_kinds_both_ways():
    given_parameters = {"mode": "teacher", "deadline_ms": 12.5, "rows": 3, "allow_fallback": False}
    request = decode(message())
    reply = encode_infer(
        request, "m", "1", {"logits": np.ones((2, 4), np.float32), "embedding": PIXELS}, given_parameters
    )
    back = decode_parameters(ModelInferResponse.FromString(reply.SerializeToString()).parameters)
    assert back == given_parameters
    assert [type(value) for value in back.values()] == [type(given_parameters[name]) for name in back]


def test_a_parameter_without_a_value_counts_as_absent():
    request = ModelInferRequest()
    request.parameters["mode"].SetInParent()
    assert decode_parameters(request.parameters) == {}


# What is wrong with the tensor "x", as fields of its JSON, and the refusal that both protocols give.
SAME_WORDS = [
    ({"name": "picture"}, "input name is 'picture'"),
    ({"datatype": "FP32"}, "datatype 'FP32'; this model takes UINT8"),
    ({"datatype": "UINT9"}, "not known here"),
    ({"datatype": "BYTES"}, "datatype 'BYTES'; this model takes UINT8"),
    ({"shape": [2, 3, 2]}, "this model takes [-1, 1, 2, 3]"),
    ({"shape": [0, 1, 2, 3]}, "send at least 1"),
    ({"shape": [-1, 1, 2, 3]}, "send at least 1"),
    ({"shape": [9, 1, 2, 3]}, "9 rows; send at most 8"),
    ({"shape": [3, 1, 2, 3]}, "data of 12 items; shape [3, 1, 2, 3] takes 18 numbers"),
    ({"data": [*range(11), 256]}, "has 256 at position 11 of its flat data; UINT8 takes whole numbers from 0 to 255"),
    ({"parameters": {"shared_memory_region": "r"}}, "shared memory is not supported"),
]


@pytest.mark.parametrize(("changes", "words"), SAME_WORDS)
def test_both_protocols_refuse_with_the_same_words(changes, words):
    entry = {"name": "image", "datatype": "UINT8", "shape": [2, 1, 2, 3], "data": list(range(12)), **changes}
    with pytest.raises(ProtocolError) as over_rest:
        parse_infer(orjson.dumps({"inputs": [entry]}), None, [IMAGE], [LOGITS], 8, takes_payloads=True)
    request = message(entry["name"], entry["datatype"], entry["shape"], raw=None)
    request.inputs[0].contents.uint_contents.extend(entry["data"])
    for name, value in entry.get("parameters", {}).items():
        request.inputs[0].parameters[name].string_param = value
    with pytest.raises(ProtocolError) as over_grpc:
        decode(request)
    assert words in str(over_rest.value)
    assert str(over_grpc.value) == str(over_rest.value)
    assert over_grpc.value.status == over_rest.value.status


@pytest.mark.parametrize("output", [{"name": "scores"}, {"name": "logits", "parameters": {"classification": 3}}])
def test_both_refuse_an_output_with_the_same_words(output):
    entry = {"name": "image", "datatype": "UINT8", "shape": [2, 1, 2, 3], "data": list(range(12))}
    with pytest.raises(ProtocolError) as over_rest:
        parse_infer(orjson.dumps({"inputs": [entry], "outputs": [output]}), None, [IMAGE], [LOGITS], 8)
    request = message()
    asked = request.outputs.add(name=output["name"])
    for name, value in output.get("parameters", {}).items():
        asked.parameters[name].int64_param = value
    assert refusal(request, outputs=[LOGITS]) == str(over_rest.value)


def test_refuses_what_a_message_alone_can_get_wrong():
    assert "inputs is []" in refusal(ModelInferRequest())
    assert "has 11 bytes of raw contents; shape [2, 1, 2, 3] of UINT8 takes 12" in refusal(message(raw=b"x" * 11))
    surplus = message()
    surplus.raw_input_contents.append(b"")
    assert "1 inputs and 2 raw_input_contents" in refusal(surplus)
    both = message()
    both.inputs[0].contents.uint_contents.extend([1])
    assert "both 'contents' and raw_input_contents" in refusal(both)
    half = TensorSpec("x", "FP16", (-1,))
    assert "no typed contents; send raw_input_contents" in refusal(
        typed("FP16", [1.0], (1,), "fp32_contents"), inputs=[half]
    )
    number = TensorSpec("x", "INT64", (-1,))
    assert "has int_contents; INT64 goes into int64_contents" in refusal(
        typed("INT64", [1], (1,), "int_contents"), inputs=[number]
    )
    assert "no input 'image'; this model takes image, weights, or payload alone" in refusal(
        message("weights", "FP32", (1,), np.ones(1, np.float32).tobytes()),
        inputs=[IMAGE, TensorSpec("weights", "FP32", (-1,))],
    )


def payload_message(raw, count):
    return message("payload", "BYTES", (count,), raw)


def test_reads_payloads_raw_and_typed():
    raw = b"".join(len(item).to_bytes(4, "little") + item for item in (b"good", b"\xff\x00"))
    assert decode(payload_message(raw, 2)).payloads == (b"good", b"\xff\x00")
    as_typed = message("payload", "BYTES", (2,), raw=None)
    as_typed.inputs[0].contents.bytes_contents.extend([b"good", b"\xff\x00"])
    decoded = decode(as_typed)
    assert decoded.payloads == (b"good", b"\xff\x00")
    assert decoded.rows == 2 and decoded.inputs == {}


def test_payloads_are_bounded_and_come_alone():
    assert f"send at most {MAX_PAYLOADS}" in refusal(payload_message(b"", MAX_PAYLOADS + 1), max_rows=256)
    assert "send at most 8" in refusal(payload_message(b"", 9))
    both = message()
    both.inputs.add(name="payload", datatype="BYTES", shape=[1])
    both.raw_input_contents.append(b"\x01\x00\x00\x00a")
    assert "'image', 'payload' are given together" in refusal(both)
    assert "input name is 'payload'; this model has image" in refusal(
        payload_message(b"\x01\x00\x00\x00a", 1), takes_payloads=False
    )


names = st.sampled_from(["image", "weights", "payload", "x", ""])
datatypes = st.sampled_from([*NUMPY_OF_DATATYPE, "BYTES", "", "UINT9"])
sizes = st.one_of(st.integers(0, 3), st.sampled_from([-1, 9, 2**31, 2**62, -(2**63), 2**63 - 1]))
parameters = st.dictionaries(
    st.sampled_from(["binary_data", "binary_data_output", "shared_memory_offset", "classification", "mode"]),
    st.one_of(
        st.builds(lambda value: {"bool_param": value}, st.booleans()),
        st.builds(lambda value: {"string_param": value}, st.text(max_size=5)),
        st.builds(lambda value: {"double_param": value}, st.floats()),
        st.just({}),
    ),
    max_size=2,
)
contents = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "bool_contents": st.lists(st.booleans(), max_size=12),
            "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=12),
            "int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12),
            "uint_contents": st.lists(st.integers(0, 300), min_size=6, max_size=12),
            "fp32_contents": st.lists(st.floats(width=32), max_size=12),
            "bytes_contents": st.lists(st.binary(max_size=8), max_size=4),
        },
    ),
)
tensors = st.fixed_dictionaries(
    {"name": names, "datatype": datatypes, "shape": st.lists(sizes, max_size=5)},
    optional={"parameters": parameters, "contents": contents},
)
plausible = st.fixed_dictionaries(
    {"name": st.just("image"), "datatype": st.just("UINT8"), "shape": st.just([1, 1, 2, 3])},
    optional={"contents": contents},
)
raws = st.lists(st.one_of(st.binary(max_size=30), st.just(bytes(6)), st.just(b"\x02\x00\x00\x00ab")), max_size=3)


@bounded
@given(
    st.lists(st.one_of(plausible, tensors), max_size=3),
    raws,
    parameters,
    st.lists(st.fixed_dictionaries({"name": st.sampled_from(["logits", "y"])}, optional={"parameters": parameters})),
)
def test_whatever_is_sent_is_decoded_or_refused(inputs, raw, own, outputs):
    request = ModelInferRequest(inputs=inputs, raw_input_contents=raw, parameters=own, outputs=outputs)
    check_decoded_or_refused(request)


@bounded
@given(st.binary(max_size=80))
def test_whatever_bytes_make_a_message_it_is_decoded_or_refused(tail):
    try:
        request = ModelInferRequest.FromString(message().SerializeToString() + tail)
    except Exception:  # protobuf itself refuses it: gRPC answers that before a servicer is asked
        return
    check_decoded_or_refused(request)


def check_decoded_or_refused(request):
    try:
        decoded = decode_infer(request, [IMAGE], [LOGITS], 4, takes_payloads=True)
    except ProtocolError as error:
        assert error.status in (400, 413)
        assert 0 < len(str(error)) < 700
        return
    assert bool(decoded.inputs) != bool(decoded.payloads)
    assert 1 <= decoded.rows <= 4
    if decoded.inputs:
        assert decoded.inputs["image"].dtype == np.uint8 and IMAGE.admits(decoded.inputs["image"].shape)
    encode_infer(decoded, "m", "1", {"logits": np.zeros((decoded.rows, 4), np.float32)}, {})
