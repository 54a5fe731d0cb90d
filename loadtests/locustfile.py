"""Locust users that send real test inputs, as programs do (V2 tensors) and as people do (image files, texts).

    locust -f loadtests/locustfile.py --headless -u 8 -r 8 -t 20s --host http://127.0.0.1:8000

With --shape step, spike, ramp, diurnal or drop the users go from --base-users up to -u and back over -t.

The exit code is 1 when p95 exceeds --p95-ms or a request failed, 2 when the endpoint cannot be loaded. Locust's users
wait for each answer before they go on, so a stall is charged to few requests: `python -m loadtests.slo` is the
stricter judge, this file is for mixed traffic and for the web page of Locust.
"""

import functools
import itertools
import json
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import gevent
from locust import FastHttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from loadtests import user_shapes
from loadtests.answers import AnswerError, read_logits
from loadtests.endpoint import EndpointError, check_url, model_metadata
from loadtests.payloads import InferRequest, RequestOptions, infer_requests, png
from loadtests.samples import SampleError, samples_for

T = TypeVar("T")

logger = logging.getLogger(__name__)

POOL = 200
SENTENCES = (
    "The home side won the cup after a goal in the last minute of extra time.",
    "Shares in the chip maker fell after it lowered its forecast for the quarter.",
    "A probe has sent back the first pictures of the far side of the moon.",
    "Ministers of both countries met to renew the treaty on the border river.",
    "Researchers have found a faster way to store data on magnetic tape.",
)


@dataclass(frozen=True)
class Traffic:
    """Everything that users send, built once: V2 requests by kind, and PNG files where the model reads images."""

    output: str
    one_row: list[InferRequest]
    eight_rows: list[InferRequest]
    one_row_json: list[InferRequest]
    png_files: list[bytes]
    predict_path: str


@functools.lru_cache(maxsize=1)
def build_traffic(host: str, model_name: str, inputs: str, allow_remote: bool) -> Traffic:
    """Ask the endpoint what it takes and build requests of it; raises EndpointError, SampleError."""
    url = check_url(host, allow_remote)
    model = model_metadata(url, model_name)
    samples = samples_for(model, Path(inputs) if inputs else None)
    shape = samples.inputs.shape
    is_image = model.input.datatype == "UINT8" and len(shape) == 4 and shape[1] in (1, 3)
    return Traffic(
        output=model.output.name,
        one_row=infer_requests(model, samples, RequestOptions(), limit=POOL),
        eight_rows=infer_requests(model, samples, RequestOptions(batch=8), limit=POOL),
        one_row_json=infer_requests(model, samples, RequestOptions(binary=False), limit=POOL),
        png_files=[png(image_CHW) for image_CHW in samples.inputs[:POOL]] if is_image else [],
        predict_path=f"/v1/models/{quote(model_name, safe='')}:predict",
    )


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", default="digits", help="name of the model (digits)")
    parser.add_argument("--inputs", default="", metavar="FILE.npz", help="arrays 'inputs' and 'labels' to send")
    parser.add_argument("--p95-ms", type=float, default=50.0, help="fail the run when p95 exceeds this (50)")
    parser.add_argument("--allow-remote", action="store_true", help="load an address that is not loopback")
    parser.add_argument("--shape", choices=list(user_shapes.SHAPES), help="how users change with time (constant)")
    parser.add_argument("--base-users", type=int, default=1, help="where the shape is lowest (1); -u is its peak")


@events.init.add_listener  # type: ignore[untyped-decorator]
def choose_shape(environment: Environment, **_: Any) -> None:
    options = _options(environment)
    if options.shape is None:
        return
    try:
        user_shapes.user_shape(options.shape, options)
    except ValueError as error:
        logger.error("--shape %s: %s", options.shape, error)
        sys.exit(2)
    environment.shape_class = user_shapes.SHAPES[options.shape]()
    environment.shape_class.runner = environment.runner


@events.init.add_listener  # type: ignore[untyped-decorator]
def build_before_the_clock(environment: Environment, **_: Any) -> None:
    if not environment.host:
        return  # On Locust's web page the host may be given later; users then build the traffic.
    try:
        traffic_of(environment)
    except (EndpointError, SampleError) as error:
        logger.error("%s", error)
        sys.exit(2)
    # Reading the samples blocked the event loop, whose timers count from the time it last looked: without this, the
    # seconds spent here would be missing from --run-time.
    gevent.get_hub().loop.update_now()


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge_objective(environment: Environment, **_: Any) -> None:
    """Set the exit code. Locust rounds response times to two digits, so p95 is that coarse."""
    total, limit_ms = environment.stats.total, _options(environment).p95_ms
    p95_ms = total.get_response_time_percentile(0.95) if total.num_requests else None
    if p95_ms is None:
        logger.error("No request was answered.")
        environment.process_exit_code = 1
    elif p95_ms > limit_ms:
        logger.error("Objective missed: p95 is %g ms, at most %g ms allowed.", p95_ms, limit_ms)
        environment.process_exit_code = 1
    else:
        # No exit code here: Locust's own is 1 where requests failed.
        logger.info("p95 is %g ms, at most %g ms allowed; %d requests failed.", p95_ms, limit_ms, total.num_failures)


def traffic_of(environment: Environment) -> Traffic:
    options = _options(environment)
    return build_traffic(environment.host or "", options.model, options.inputs, options.allow_remote)


def _options(environment: Environment) -> Namespace:
    options = environment.parsed_options
    assert isinstance(options, Namespace), "Locust parses the command line before any event"
    return options


class TandemUser(FastHttpUser):
    """Nine in ten requests are a program's, the rest a person's."""

    wait_time = between(0.05, 0.15)

    def on_start(self) -> None:
        self.traffic = traffic_of(self.environment)
        # Users start at different rows, so that they do not send the same input at the same time.
        start = id(self) // 64 % POOL
        self.one_row = _from(self.traffic.one_row, start)
        self.eight_rows = _from(self.traffic.eight_rows, start)
        self.one_row_json = _from(self.traffic.one_row_json, start)
        self.png_files = _from(self.traffic.png_files, start)
        self.sentences = _from(SENTENCES, start)

    @task(10)
    def infer_one_row(self) -> None:
        self._infer(next(self.one_row), "infer, binary, 1 row")

    @task(4)
    def infer_eight_rows(self) -> None:
        self._infer(next(self.eight_rows), "infer, binary, 8 rows")

    @task(2)
    def infer_json(self) -> None:
        self._infer(next(self.one_row_json), "infer, JSON, 1 row")

    @task(1)
    def predict(self) -> None:
        if self.traffic.png_files:
            self._predict(next(self.png_files), {"Content-Type": "image/png"}, "predict, PNG")
        else:
            self._predict_sentence()

    @task(1)
    def predict_upload(self) -> None:
        if not self.traffic.png_files:
            self._predict_sentence()
            return
        boundary = "tandem-load-test-boundary"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="image.png"\r\n'
        body = f"{head}Content-Type: image/png\r\n\r\n".encode() + next(self.png_files)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self._predict(body + f"\r\n--{boundary}--\r\n".encode(), headers, "predict, uploaded PNG")

    def _predict_sentence(self) -> None:
        body = json.dumps({"text": next(self.sentences)}).encode()
        self._predict(body, {"Content-Type": "application/json"}, "predict, text")

    # Locust's types say text, its code sends bytes as they are.
    def _post(self, path: str, body: Any, headers: dict[str, str], name: str) -> ResponseContextManager:
        return self.client.post(path, data=body, headers=headers, name=name, catch_response=True)

    def _infer(self, request: InferRequest, name: str) -> None:
        with self._post(request.path, request.body, request.headers, name) as response:
            if response.status_code != 200:
                response.failure(_refused(response))
                return
            headers = {key.lower(): value for key, value in response.headers.items()}
            try:
                read_logits(response.content or b"", headers, self.traffic.output, request.rows)
            except AnswerError as error:
                response.failure(str(error))

    def _predict(self, body: bytes, headers: dict[str, str], name: str) -> None:
        with self._post(self.traffic.predict_path, body, headers, name) as response:
            if response.status_code != 200:
                response.failure(_refused(response))
            elif not _is_prediction(response):
                response.failure(f"no labels with probabilities in {response.text[:200]}")


def _from(items: Sequence[T], start: int) -> Iterator[T]:
    """Round and round through `items`, beginning at `start`; empty where `items` is."""
    return itertools.cycle([*items[start % len(items) :], *items[: start % len(items)]] if items else [])


def _refused(response: Any) -> str:
    # Status 0: Locust's way of saying that no answer came at all.
    return f"HTTP {response.status_code}: {(response.text or response.error or '')!s:.200}"


def _is_prediction(response: Any) -> bool:
    """Whether the answer lists labels with probabilities, each from 0 to 1."""
    try:
        predictions = response.json()["predictions"]
        return bool(predictions) and all(item["label"] != "" and 0 <= item["probability"] <= 1 for item in predictions)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
