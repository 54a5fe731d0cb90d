"""`python -m loadtests.slo`: does an endpoint keep its p95 at a given request rate?

Exit code 0: the objective was met; 1: it was missed; 2: the question could not be asked.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

from loadtests.endpoint import EndpointError, check_url, direct_opener, model_metadata
from loadtests.open_loop import MAX_IN_FLIGHT, Outcome, Plan, run_open_loop
from loadtests.payloads import InferRequest, RequestOptions, infer_requests
from loadtests.progress import showing
from loadtests.report import Run, table, write_report
from loadtests.samples import samples_for
from loadtests.summary import Objective, judge, summarize

MET, MISSED, UNUSABLE = 0, 1, 2

# Statuses that blame the request: every other one would be refused likewise.
REFUSALS = (400, 404, 405, 411, 413, 415, 422)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.slo", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="base URL of the endpoint (%(default)s)")
    parser.add_argument("--model", default="digits", help="name of the model (%(default)s)")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays 'inputs' and 'labels' to send")
    load = parser.add_argument_group("load")
    load.add_argument("--rate", type=float, required=True, help="requests a second")
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
    plan = Plan(
        rate=arguments.rate,
        duration_s=arguments.duration,
        warmup_s=arguments.warmup,
        arrivals=arguments.arrivals,
        seed=arguments.seed,
        timeout_s=arguments.timeout,
        max_in_flight=arguments.max_in_flight,
    )
    objective = Objective(arguments.p95_ms, arguments.max_error_rate)
    options = RequestOptions(arguments.batch, arguments.mode, arguments.deadline_ms, not arguments.json)
    model = model_metadata(url, arguments.model)
    samples = samples_for(model, arguments.inputs)
    requests = infer_requests(model, samples, options, plan.seed)
    _try_one(url, requests[0], plan.timeout_s)

    now = datetime.now(UTC)
    with showing(plan) as on_progress:
        outcomes: list[Outcome] = run_open_loop(url, requests, plan, on_progress)
    if not outcomes:
        raise ValueError(f"no arrival fell into {plan.duration_s:g} s at {plan.rate:g}/s; run for longer")
    judged = [judge(outcome, model.output.name) for outcome in outcomes]
    run = Run(
        url=url,
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
    )
    folder = arguments.out or Path("loadtests/reports") / now.strftime("%Y%m%d-%H%M%S")
    files = write_report(run, judged, folder)
    _print_result(run, files)
    return MET if run.met else MISSED


def _try_one(url: str, request: InferRequest, timeout_s: float) -> None:
    """Send one request before the clock starts; raises EndpointError where the endpoint would refuse them all."""
    try:
        with direct_opener().open(
            Request(url + request.path, request.body, request.headers), timeout=timeout_s
        ) as response:
            response.read()
    except HTTPError as error:
        if error.code < 400 or error.code in REFUSALS:
            detail = error.read(500).decode("utf-8", "replace").strip()
            raise EndpointError(f"the endpoint refuses these requests: {error.code} {detail}") from error
    except (OSError, HTTPException):
        # An endpoint in trouble is for the measurement to show.
        return


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
