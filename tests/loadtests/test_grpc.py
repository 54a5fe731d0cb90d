"""The gRPC client against a server that is made of the protocol's compiled stubs, not of the client's own messages."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from apps.protocol import grpc_protocol_pb2 as pb
from loadtests.endpoint import ModelMetadata, Tensor
from loadtests.open_loop import Outcome, Plan, run_open_loop
from loadtests.payloads import InferRequest, RequestOptions, infer_requests
from loadtests.samples import bundled_digits
from loadtests.summary import judge

MODEL = ModelMetadata("digits", (), Tensor("image", "UINT8", (-1, 1, 8, 8)), Tensor("logits", "FP32", (-1, 10)))
DIGITS = bundled_digits()


class Server:
    """Answers with the true classes; `code` refuses everything, `typed` answers without raw contents."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.typed = False
        self.seen: list[pb.ModelInferRequest] = []
        self.target = ""

    def infer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        self.seen.append(request)
        if self.code is not None:
            context.abort(self.code, "told to refuse")
        tensor = request.inputs[0]
        images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(list(tensor.shape))
        rows = [int(np.flatnonzero((DIGITS.inputs == image).all(axis=(1, 2, 3)))[0]) for image in images]
        logits = np.eye(10, dtype="<f4")[DIGITS.labels[rows]]
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version="3")
        answer.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        if self.typed:
            answer.outputs[0].contents.fp32_contents.extend(logits.ravel().tolist())
        else:
            answer.raw_output_contents.append(logits.tobytes())
        answer.parameters["variant"].string_param = ",".join(["student"] * len(rows))
        answer.parameters["reason"].string_param = ",".join(["confident", "fallback:overload"][: len(rows)])
        answer.parameters["release"].string_param = "3"
        return answer


@pytest.fixture
def server() -> Iterator[Server]:
    stub = Server()
    handler = grpc.unary_unary_rpc_method_handler(
        stub.infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    running = grpc.server(ThreadPoolExecutor(4))
    running.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
    )
    stub.target = f"grpc://127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    running.start()
    yield stub
    running.stop(0).wait()


def send(target: str, options: RequestOptions) -> list[Outcome]:
    requests: list[InferRequest] = infer_requests(MODEL, DIGITS, options)
    return run_open_loop(target, requests, Plan(rate=40, duration_s=0.5, arrivals="uniform", timeout_s=5))


def test_requests_are_v2_messages_with_their_parameters(server: Server) -> None:
    send(server.target, RequestOptions(mode="teacher", deadline_ms=40.0, grpc=True))
    request = server.seen[0]
    assert (request.model_name, request.outputs[0].name) == ("digits", "logits")
    assert request.parameters["mode"].string_param == "teacher"
    assert request.parameters["deadline_ms"].double_param == 40.0
    assert len(server.seen) == 20


@pytest.mark.parametrize("typed", [False, True])
def test_answers_are_judged_as_those_over_http(server: Server, typed: bool) -> None:
    server.typed = typed
    outcomes = send(server.target, RequestOptions(batch=2, grpc=True))
    judged = [judge(outcome, "logits") for outcome in outcomes]
    assert {(item.error, item.rows, item.correct) for item in judged} == {(None, 2, 2)}
    assert {(item.variant, item.reason, item.release) for item in judged} == {("student", "mixed", "3")}
    assert all(0 < item.latency_ms < 1000 for item in judged)


@pytest.mark.parametrize(
    ("code", "error"),
    [(grpc.StatusCode.RESOURCE_EXHAUSTED, "HTTP 429"), (grpc.StatusCode.UNAVAILABLE, "HTTP 503")],
)
def test_refusals_are_told_by_the_status_that_says_the_same(server: Server, code: grpc.StatusCode, error: str) -> None:
    server.code = code
    judged = [judge(outcome, "logits") for outcome in send(server.target, RequestOptions(grpc=True))]
    assert {(item.error, item.detail) for item in judged} == {(error, "told to refuse")}


def test_nobody_at_the_address_is_a_lost_connection() -> None:
    outcomes = send("grpc://127.0.0.1:9", RequestOptions(grpc=True))
    assert {outcome.failure for outcome in outcomes} == {"connection: UNAVAILABLE"}


def test_other_output_is_an_error(server: Server) -> None:
    outcome = send(server.target, RequestOptions(grpc=True))[0]
    assert "output 'scores'" in (judge(outcome, "scores").error or "")


def test_json_over_grpc_is_refused() -> None:
    with pytest.raises(ValueError, match="binary"):
        RequestOptions(binary=False, grpc=True)
