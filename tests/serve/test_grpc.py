"""Open Inference Protocol V2 over gRPC, from a live endpoint: through Ray Serve's front end to the real graph."""

import grpc
import httpx
import numpy as np
import pytest

from apps.protocol import grpc_protocol_pb2 as pb
from apps.protocol.grpc_door import SERVICE_NAME
from tests.serve.deployed import deploy, publish_champion
from tests.tiny import SURE, UNSURE, logits

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MODEL = "tiny_grpc"


@pytest.fixture(scope="module")
def served(cluster, serve_port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpc")
    publish_champion(cluster, folder, MODEL)
    # Generous: what is tested is who answers, on a machine that may be busy with other things.
    args = {"model": MODEL, "deadline_ms": 2_000, "releases": [{"ref": "champion"}]}
    return deploy(cluster, folder, serve_port, MODEL, args)


@pytest.fixture(scope="module")
def ask(served):
    """Calls one RPC and returns its answer and its trailing metadata."""
    with grpc.insecure_channel(served.grpc_address, options=[("grpc.enable_http_proxy", 0)]) as channel:

        def call(method, request, metadata=(), timeout=30):
            rpc = channel.unary_unary(
                f"/{SERVICE_NAME}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=getattr(pb, f"{method}Response").FromString,
            )
            answer, done = rpc.with_call(request, timeout=timeout, metadata=metadata)
            return answer, dict(done.trailing_metadata())

        yield call


def infer_request(rows, raw=True, **parameters):
    request = pb.ModelInferRequest(model_name=MODEL, id="7")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=rows.shape)
    if raw:
        request.raw_input_contents.append(rows.tobytes())
    else:
        tensor.contents.uint_contents.extend(rows.ravel().tolist())
    for name, value in parameters.items():
        request.parameters[name].string_param = value
    return request


def numbers(response):
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)


def test_the_cascade_answers_without_the_application_being_named(ask):
    rows = np.stack([SURE, UNSURE])
    expected = np.concatenate([logits(rows[:1], 0.0), logits(rows[1:], 100.0)])
    response, trailing = ask("ModelInfer", infer_request(rows))
    np.testing.assert_allclose(numbers(response), expected, atol=1e-5)
    assert (response.id, response.parameters["variant"].string_param) == ("7", "student,teacher")
    assert (trailing["x-tandem-release"], trailing["x-tandem-variant"]) == ("1", "mixed")
    typed, _ = ask("ModelInfer", infer_request(rows, raw=False))
    np.testing.assert_allclose(list(typed.outputs[0].contents.fp32_contents), expected.ravel(), atol=1e-5)


def test_metadata_controls_as_a_header_does(ask):
    _, trailing = ask("ModelInfer", infer_request(SURE[None]), [("x-tandem-mode", "teacher")])
    assert (trailing["x-tandem-variant"], trailing["x-tandem-reason"]) == ("teacher", "pinned")


def test_what_is_said_of_the_model_is_what_rest_says(ask, served):
    with served.client() as client:
        rest = client.get(f"/v2/models/{MODEL}").json()
        config = client.get(f"/v2/models/{MODEL}/config").json()
    metadata, _ = ask("ModelMetadata", pb.ModelMetadataRequest(name=MODEL))
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [
        (i["name"], i["datatype"], i["shape"]) for i in rest["inputs"]
    ]
    assert list(metadata.versions) == rest["versions"]
    assert ask("ModelConfig", pb.ModelConfigRequest(name=MODEL))[0].config.max_batch_size == config["max_batch_size"]
    assert ask("ServerLive", pb.ServerLiveRequest())[0].live
    assert ask("ServerReady", pb.ServerReadyRequest())[0].ready
    assert ask("ModelReady", pb.ModelReadyRequest(name=MODEL, version="1"))[0].ready
    (stats,) = ask("ModelStatistics", pb.ModelStatisticsRequest(name=MODEL))[0].model_stats
    assert stats.name == MODEL and stats.inference_stats.success.count > 0


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_name": "nobody"}, grpc.StatusCode.NOT_FOUND),
        ({"model_version": "99"}, grpc.StatusCode.NOT_FOUND),
        ({"raw_input_contents": [b"x"]}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"parameters": {"mode": {"string_param": "both"}}}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_failure_has_a_code_and_the_words_of_rest(ask, changes, code):
    request = infer_request(SURE[None])
    for field in changes:
        request.ClearField(field)
    request.MergeFrom(pb.ModelInferRequest(**changes))
    with pytest.raises(grpc.RpcError) as caught:
        ask("ModelInfer", request)
    assert caught.value.code() is code, caught.value.details()
    assert len(caught.value.details()) > 20


def test_more_than_four_megabytes_go_both_ways(ask):
    rows = np.repeat(SURE[None], 256, axis=0)
    request = infer_request(rows)
    request.parameters["ballast"].string_param = "x" * 5_000_000
    response, _ = ask("ModelInfer", request)
    assert numbers(response).shape == (256, 3)


def test_rest_and_grpc_answer_on_their_own_ports(served):
    assert httpx.get(f"{served.url}/v2/health/live", trust_env=False, timeout=10).status_code == 200
