"""`python -m loadtests.slo`: does an endpoint keep its p95 at a given request rate?

Exit code 0: the objective was met; 1: it was missed; 2: the question could not be asked.
"""

import argparse
import asyncio
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtests.endpoint import EndpointError, check_url, model_metadata
from loadtests.open_loop import MAX_IN_FLIGHT, Outcome, Plan, open_transport, run_open_loop
from loadtests.payloads import InferRequest, RequestOptions, infer_requests
from loadtests.progress import showing
from loadtests.replicas import watching
from loadtests.report import Run, table, write_report
from loadtests.samples import samples_for
from loadtests.shapes import SHAPE_NAMES
from loadtests.summary import Objective, judge, summarize
from loadtests.transports import Reply, TransportError

MET, MISSED, UNUSABLE = 0, 1, 2

# Statuses that blame the request: every other one would be refused likewise.
REFUSALS = (400, 401, 403, 404, 405, 411, 413, 415, 422, 501)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.slo", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="base URL of the endpoint (%(default)s)")
    parser.add_argument(
        "--grpc", metavar="HOST:PORT", help="send by gRPC to this address; --url is still asked what the model takes"
    )
    parser.add_argument("--model", default="digits", help="name of the model (%(default)s)")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays 'inputs' and 'labels' to send")
    load = parser.add_argument_group("load")
    load.add_argument("--rate", type=float, required=True, help="requests a second, at the peak of the shape")
    load.add_argument("--shape", choices=SHAPE_NAMES, default="steady", help="how the rate changes (%(default)s)")
    load.add_argument("--base-rate", type=float, default=0.0, help="where the shape is lowest (%(default)s)")
    load.add_argument("--duration", type=float, required=True, metavar="S", help="seconds that are measured")
    load.add_argument(
        "--warmup", type=float, default=1.0, metavar="S", help="seconds before that, uncounted (%(default)s)"
    )
    load.add_argument("--arrivals", choices=("poisson", "uniform"), default="poisson", help="%(default)s by default")
    load.add_argument("--seed", type=int, default=0, help="of arrivals and of the order of samples (%(default)s)")
    load.add_argument("--timeout", type=float, default=10.0, metavar="S", help="then it has failed (%(default)s)")
    load.add_argument(
        "--max-in-flight",
        type=int,
        default=256,
        metavar="N",
        help=f"what comes on top has failed (%(default)s, at most {MAX_IN_FLIGHT})",
    )
    request = parser.add_argument_group("request")
    request.add_argument("--mode", choices=("cascade", "teacher", "student"), help="default: the endpoint's own")
    request.add_argument("--batch", type=int, default=1, metavar="N", help="rows a request (%(default)s)")
    request.add_argument("--deadline-ms", type=float, metavar="MS", help="sent as the parameter deadline_ms")
    request.add_argument("--json", action="store_true", help="JSON tensors instead of binary ones")
    objective = parser.add_argument_group("objective")
    objective.add_argument("--p95-ms", type=float, required=True, metavar="MS", help="failed requests never arrive")
    objective.add_argument("--max-error-rate", type=float, default=0.0, metavar="SHARE", help="0 to 1 (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: loadtests/reports/<timestamp>")
    parser.add_argument("--dashboard", metavar="URL", help="Ray's dashboard, to show the replicas by time")
    parser.add_argument("--allow-remote", action="store_true", help="load an address that is not loopback")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Raises SystemExit(2) on arguments that cannot be parsed."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(argv)
    try:
        return _measure(arguments, shlex.join(["python", "-m", "loadtests.slo", *argv]))
    except (ValueError, OSError) as error:
        print(f"loadtests.slo: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("loadtests.slo: interrupted, nothing was written", file=sys.stderr)
        return UNUSABLE


def _measure(arguments: argparse.Namespace, command: str) -> int:
    url = check_url(arguments.url, arguments.allow_remote)
    if arguments.dashboard:
        check_url(arguments.dashboard, arguments.allow_remote)
    target = url
    if arguments.grpc:
        target = "grpc" + check_url(f"http://{arguments.grpc}", arguments.allow_remote).removeprefix("http")
    plan = Plan(
        rate=arguments.rate,
        duration_s=arguments.duration,
        warmup_s=arguments.warmup,
        shape=arguments.shape,
        base_rate=arguments.base_rate,
        arrivals=arguments.arrivals,
        seed=arguments.seed,
        timeout_s=arguments.timeout,
        max_in_flight=arguments.max_in_flight,
    )
    objective = Objective(arguments.p95_ms, arguments.max_error_rate)
    options = RequestOptions(
        arguments.batch, arguments.mode, arguments.deadline_ms, not arguments.json, bool(arguments.grpc)
    )
    model = model_metadata(url, arguments.model)
    samples = samples_for(model, arguments.inputs)
    requests = infer_requests(model, samples, options, plan.seed)
    try_one(target, requests[0], plan.timeout_s)

    now = datetime.now(UTC)
    with showing(plan) as on_progress, watching(arguments.dashboard) as replicas:
        outcomes: list[Outcome] = run_open_loop(target, requests, plan, on_progress)
    if not outcomes:
        raise ValueError(f"no arrival fell into {plan.duration_s:g} s at {plan.rate:g}/s; run for longer")
    judged = [judge(outcome, model.output.name) for outcome in outcomes]
    run = Run(
        url=target,
        model=model.name,
        model_versions=model.versions,
        command=command,
        started_at=now.isoformat(timespec="seconds"),
        inputs=samples.source,
        samples=len(samples),
        options=options,
        plan=plan,
        objective=objective,
        summary=summarize(outcomes, judged, plan.duration_s),
        replicas=tuple(replicas.since(plan.warmup_s)),
    )
    folder = arguments.out or Path("loadtests/reports") / now.strftime("%Y%m%d-%H%M%S")
    files = write_report(run, judged, folder)
    _print_result(run, files)
    return MET if run.met else MISSED


def try_one(target: str, request: InferRequest, timeout_s: float) -> None:
    """Send one request before the clock starts; raises EndpointError where the endpoint would refuse them all."""

    async def send() -> Reply:
        transport = open_transport(target, timeout_s)
        try:
            return await transport.send(request)
        finally:
            await transport.close()

    try:
        reply = asyncio.run(send())
    except TransportError:
        # An endpoint in trouble is for the measurement to show.
        return
    if 300 <= reply.status < 400 or reply.status in REFUSALS:
        detail = reply.body[:500].decode("utf-8", "replace").strip()
        raise EndpointError(f"the endpoint refuses these requests: {reply.status} {detail}")


def _print_result(run: Run, files: Sequence[Path]) -> None:
    rows = table(run)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    if run.summary.client_lag_p95_ms > run.objective.p95_ms / 10:
        print("The client itself sent late: lower --rate, or run it where a CPU is free.")
    print(f"{'MET' if run.met else 'MISSED'}: p95 at most {run.objective.p95_ms:g} ms at {run.plan.rate:g} requests/s")
    for file in files:
        print(file)


if __name__ == "__main__":
    sys.exit(main())
