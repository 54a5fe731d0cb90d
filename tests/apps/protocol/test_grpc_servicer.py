"""GRPCInferenceService over in-process models: what REST answers, in messages, and its failures as status codes."""

import asyncio
import io
from dataclasses import replace

import grpc
import numpy as np
import pytest
from PIL import Image

from apps.access.check import AccessError
from apps.backends.backend import GuardedBackend
from apps.backends.breaker import Breaker
from apps.endpoint import Endpoint
from apps.observe.account import Books
from apps.observe.meter import NoMeter
from apps.protocol import grpc_protocol_pb2 as pb
from apps.protocol.grpc_door import REMAINING_METADATA, SERVICE_NAME, add_service
from apps.protocol.grpc_methods import GrpcMethods
from apps.protocol.grpc_servicer import Servicer
from apps.refusal import Refused, RefusedError
from apps.router import Arm, Patience, Router
from apps.service import Service
from training.encoding import Encoder, ImageEncoding

IMAGE = ImageEncoding(height=2, width=2, channels=1, labels=("a", "b", "c"))
SURE, UNSURE = [255, 0, 0, 0], [128, 127, 0, 0]
STATS = {"name": "tiny", "version": "3", "inference_count": 5, "inference_stats": {"success": {"count": 4, "ns": 9}}}


class Model:
    def __init__(self, offset=0.0):
        self.offset, self.refuse, self.waits = offset, None, []

    async def infer(self, rows, timeout_s):
        self.waits.append(timeout_s)
        if self.refuse is not None:
            raise RefusedError(Refused(self.refuse, f"the teacher says {self.refuse}", wait_s=2.5))
        return rows.reshape(len(rows), -1).astype(np.float32)[:, :3] / np.float32(25.5) + np.float32(self.offset)


class Ledger(NoMeter):
    def __init__(self):
        self.records = []

    def record(self, release, variant, reason, status, latency_ms, protocol, parse_ms, encode_ms):
        assert latency_ms >= 0 and protocol == "grpc"
        self.records.append((release, variant, reason, status))

    def statistics(self, versions, version=None):
        return {"model_stats": [{**STATS, "version": v} for v in versions if version in (None, v)]}


class Call:
    """The context of one call."""

    def __init__(self, **metadata):
        self.metadata = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        self.code, self.details, self.trailing = None, "", {}

    def invocation_metadata(self):
        return (*self.metadata, ("trace-bin", b"\x00"))

    def set_code(self, code):
        self.code = code

    def set_details(self, details):
        self.details = details

    def set_trailing_metadata(self, trailing):
        self.trailing = dict(trailing)


class Served:
    def __init__(self, access=None):
        self.student, self.teacher, self.ledger = Model(), Model(100.0), Ledger()
        arm = Arm(3, 1.0, 2.0, 0.9, self.student, GuardedBackend(self.teacher, Breaker(), 0.0))
        router = Router([arm, replace(arm, number=4)], Patience(0.04, 0.01, 5.0))
        service = Service("tiny", Encoder(IMAGE), router, {"deadline_ms": 40.0}, 4, Books("tiny", self.ledger))
        router = Router([arm], Patience(0.04, 0.01, 5.0))
        second = Service("second", Encoder(IMAGE), router, books=Books("second", Ledger()))
        self.methods = GrpcMethods()
        self.methods.grpc = Servicer(Endpoint({"tiny": service, "second": second}, 1_000), access)

    def ask(self, method, request, **metadata):
        call = Call(**metadata)
        return asyncio.run(getattr(self.methods, method)(request, grpc_context=call)), call


@pytest.fixture
def served():
    return Served()


def infer_request(*rows, name="tiny", version="3", **parameters):
    request = pb.ModelInferRequest(model_name=name, model_version=version, id="9")
    request.inputs.add(name="image", datatype="UINT8", shape=[len(rows), 1, 2, 2])
    request.raw_input_contents.append(bytes(value for row in rows for value in row))
    for key, value in parameters.items():
        kind = {str: "string_param", bool: "bool_param", float: "double_param"}[type(value)]
        setattr(request.parameters[key], kind, value)
    return request


def numbers(response):
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)


def test_the_cascade_answers_and_says_who_did(served):
    response, call = served.ask("ModelInfer", infer_request(SURE, UNSURE))
    assert call.code is None, call.details
    np.testing.assert_allclose(numbers(response), [[10, 0, 0], [105.0196, 104.98039, 100]], rtol=1e-5)
    assert (response.model_name, response.model_version, response.id) == ("tiny", "3", "9")
    assert response.parameters["reason"].string_param == "confident,escalated"
    assert call.trailing.pop("x-request-id")
    assert call.trailing == {"x-tandem-variant": "mixed", "x-tandem-reason": "mixed", "x-tandem-release": "3"}
    assert served.ledger.records == [("3", "mixed", "mixed", 200)]


def test_controls_come_as_parameters_or_as_metadata(served):
    by_parameter, _ = served.ask("ModelInfer", infer_request(SURE, mode="teacher"))
    by_metadata, _ = served.ask("ModelInfer", infer_request(SURE), x_tandem_mode="teacher")
    assert (
        by_parameter.parameters["variant"].string_param == by_metadata.parameters["variant"].string_param == "teacher"
    )


def test_probabilities_are_there_for_those_who_ask(served):
    assert [o.name for o in served.ask("ModelInfer", infer_request(SURE))[0].outputs] == ["logits"]
    asked = infer_request(SURE, probabilities=True)
    assert [o.name for o in served.ask("ModelInfer", asked)[0].outputs] == ["logits", "probabilities"]
    named = infer_request(SURE)
    named.outputs.add(name="probabilities")
    assert [o.name for o in served.ask("ModelInfer", named)[0].outputs] == ["probabilities"]


def test_an_image_file_is_answered_as_its_pixels_are(served):
    file = io.BytesIO()
    Image.fromarray(np.array(SURE, np.uint8).reshape(2, 2)).save(file, "PNG")
    request = pb.ModelInferRequest(model_name="tiny")
    request.inputs.add(name="payload", datatype="BYTES", shape=[1]).contents.bytes_contents.append(file.getvalue())
    response, call = served.ask("ModelInfer", request)
    assert call.code is None, call.details
    assert list(response.outputs[0].contents.fp32_contents) == [10, 0, 0]
    request.inputs[0].contents.bytes_contents[0] = b"GIF89a"
    _, call = served.ask("ModelInfer", request)
    assert call.code is grpc.StatusCode.INVALID_ARGUMENT and "not a PNG or JPEG" in call.details


REFUSALS = [
    ("overload", grpc.StatusCode.RESOURCE_EXHAUSTED, 503),
    ("unavailable", grpc.StatusCode.UNAVAILABLE, 503),
    ("timeout", grpc.StatusCode.DEADLINE_EXCEEDED, 504),
]


@pytest.mark.parametrize(("reason", "code", "status"), REFUSALS)
def test_a_refusal_has_a_code_of_its_own(served, reason, code, status):
    served.teacher.refuse = reason
    _, call = served.ask("ModelInfer", infer_request(SURE, mode="teacher"))
    assert (call.code, call.details) == (code, f"the teacher says {reason}")
    assert call.trailing.get("retry-after") == (None if status == 504 else "3")
    assert served.ledger.records == [("", "", "", status)]


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (infer_request(SURE, name="x"), grpc.StatusCode.NOT_FOUND, "model 'x' is not served"),
        (infer_request(SURE, version="8"), grpc.StatusCode.NOT_FOUND, "version '8' of 'tiny' is not served"),
        (infer_request(*[SURE] * 5), grpc.StatusCode.INVALID_ARGUMENT, "send at most 4"),
        (infer_request(*[SURE] * 251), grpc.StatusCode.INVALID_ARGUMENT, "larger than the 1000 bytes"),
        (infer_request(SURE, mode="both"), grpc.StatusCode.INVALID_ARGUMENT, "mode is 'both'"),
        (infer_request(SURE, deadline_ms=-1.0), grpc.StatusCode.INVALID_ARGUMENT, "deadline_ms is -1.0"),
        (infer_request(SURE[:3]), grpc.StatusCode.INVALID_ARGUMENT, "takes 4 bytes"),
    ],
)
def test_a_bad_request_is_told_why(served, request_, code, words):
    response, call = served.ask("ModelInfer", request_)
    assert call.code is code and words in call.details
    assert response == pb.ModelInferResponse()


def test_an_unforeseen_error_is_logged_and_not_shown(served, caplog):
    async def break_(rows, timeout_s):
        raise KeyError("the inside of the server")

    served.student.infer = break_
    _, call = served.ask("ModelInfer", infer_request(SURE))
    assert call.code is grpc.StatusCode.INTERNAL
    assert "inside" not in call.details
    assert "the inside of the server" in caplog.text


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, grpc.StatusCode.UNAUTHENTICATED),
        (403, grpc.StatusCode.PERMISSION_DENIED),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_who_may_not_ask_is_turned_away_but_health_is_told(status, code):
    class Guard:
        def check(self, headers, model):
            assert model in (None, "tiny")
            if headers.get("x-api-key") != "k":
                raise AccessError(status, "no", retry_after_s=1.2 if status == 429 else None)

    served = Served(Guard())
    asked = {
        "ModelInfer": infer_request(SURE),
        "ModelMetadata": pb.ModelMetadataRequest(name="tiny"),
        "ModelConfig": pb.ModelConfigRequest(name="tiny"),
        "ModelStatistics": pb.ModelStatisticsRequest(),
        "ServerMetadata": pb.ServerMetadataRequest(),
    }
    for method, request in asked.items():
        _, call = served.ask(method, request)
        assert (call.code, call.details) == (code, "no"), method
        assert call.trailing.get("retry-after") == ("2" if status == 429 else None)
        assert served.ask(method, request, x_api_key="k")[1].code is None
    assert served.ask("ServerLive", pb.ServerLiveRequest())[0].live
    assert served.ask("ServerReady", pb.ServerReadyRequest())[0].ready


def test_metadata_config_and_readiness_are_those_of_rest(served):
    metadata, _ = served.ask("ModelMetadata", pb.ModelMetadataRequest(name="tiny"))
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [("image", "UINT8", [-1, 1, 2, 2])]
    assert [o.name for o in metadata.outputs] == ["logits", "probabilities"]
    assert list(metadata.versions) == ["3", "4"] and "BYTES" in metadata.properties["payload"]
    one, _ = served.ask("ModelMetadata", pb.ModelMetadataRequest(name="tiny", version="4"))
    assert list(one.versions) == ["4"]
    config = served.ask("ModelConfig", pb.ModelConfigRequest(name="tiny"))[0].config
    assert (config.name, config.max_batch_size, config.HasField("dynamic_batching")) == ("tiny", 4, True)
    assert config.input[0].data_type == pb.TYPE_UINT8 and list(config.input[0].dims) == [1, 2, 2]
    assert served.ask("ModelReady", pb.ModelReadyRequest(name="tiny", version="3"))[0].ready
    _, call = served.ask("ModelReady", pb.ModelReadyRequest(name="x"))
    assert call.code is grpc.StatusCode.NOT_FOUND
    server, _ = served.ask("ServerMetadata", pb.ServerMetadataRequest())
    assert server.name == "tandem" and "statistics" in server.extensions


def test_statistics_are_of_all_models_one_model_or_one_version(served):
    everything, _ = served.ask("ModelStatistics", pb.ModelStatisticsRequest())
    assert len(everything.model_stats) == 3
    one, _ = served.ask("ModelStatistics", pb.ModelStatisticsRequest(name="tiny", version="4"))
    (stats,) = one.model_stats
    assert (stats.version, stats.inference_count, stats.inference_stats.success.ns) == ("4", 5, 9)


def test_the_calls_own_deadline_holds_where_it_is_nearer_than_the_objective(served):
    for remaining, expected_s in (("0.030", 0.020), ("3.0", 0.030)):
        served.ask("ModelInfer", infer_request(UNSURE), **{REMAINING_METADATA: remaining})
        # Less what is kept for the student's answer.
        assert served.teacher.waits[-1] == pytest.approx(expected_s, abs=0.006)
    served.ask("ModelInfer", infer_request(UNSURE, deadline_ms=900.0), **{REMAINING_METADATA: "0.030"})
    assert served.teacher.waits[-1] == pytest.approx(0.890, abs=0.01)


class Methods:
    """A server as Ray Serve's is: what it calls is made by its factory."""

    def __init__(self):
        self.handlers = {}
        self.service_handler_factory = self.make

    def make(self, service_method, streaming_type):
        async def answer(request, context):
            return service_method, dict(context.invocation_metadata()), context.peer()

        return answer

    def add_generic_rpc_handlers(self, handlers):
        for path in handlers[0]._method_handlers:
            self.handlers[path] = self.service_handler_factory(service_method=path, streaming_type="unary")


class Timed:
    def __init__(self, remaining_s):
        self._remaining_s = remaining_s

    def peer(self):
        return "unix:"

    def time_remaining(self):
        return self._remaining_s

    def invocation_metadata(self):
        return (("x-tandem-mode", "teacher"), (REMAINING_METADATA, "from the client"))


def test_the_door_adds_every_rpc_and_leaves_the_server_as_it_was():
    server = Methods()
    factory = server.service_handler_factory
    add_service(GrpcMethods(), server)
    assert server.service_handler_factory == factory
    assert {path.rpartition("/")[2] for path in server.handlers} == {
        *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady"),
        *("ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer"),
    }


@pytest.mark.parametrize(("remaining_s", "expected"), [(0.25, "0.2500"), (-1.0, "0.0010"), (None, None), (9e9, None)])
def test_the_door_writes_what_is_left_of_the_deadline_into_the_metadata(remaining_s, expected):
    server = Methods()
    add_service(GrpcMethods(), server)
    handler = server.handlers[f"/{SERVICE_NAME}/ModelInfer"]
    _, metadata, peer = asyncio.run(handler(None, Timed(remaining_s)))
    assert metadata.get(REMAINING_METADATA) == expected
    assert (metadata["x-tandem-mode"], peer) == ("teacher", "unix:")


def test_a_real_server_sends_answers_codes_and_trailing_metadata(served):
    async def over_the_wire():
        server = grpc.aio.server()
        add_service(served.methods, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = channel.unary_unary(
                f"/{SERVICE_NAME}/ModelInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )
            call = infer(infer_request(SURE))
            np.testing.assert_allclose(numbers(await call), [[10, 0, 0]])
            assert ("x-tandem-reason", "confident") in tuple(await call.trailing_metadata())
            served.teacher.refuse = "overload"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(infer_request(SURE, mode="teacher"))
        await server.stop(None)
        return caught.value

    error = asyncio.run(over_the_wire())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "the teacher says overload"
    assert ("retry-after", "3") in tuple(error.trailing_metadata())
