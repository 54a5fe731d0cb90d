"""`python -m loadtests.overload`: three times what the teacher can do, answered in tandem and by the teacher alone.

Rounds of three arms in turn: the cascade; the teacher alone with the objective as its deadline, so that it sheds what
would be late; the teacher alone without a deadline, so that it queues. Before each round a closed loop measures what
the teacher can do. Exit code 0: what is asked of the cascade holds in the medians; 1: it does not; 2: nothing could be
measured.
"""

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loadtests.closed_loop import answered_per_s, run_closed_loop
from loadtests.endpoint import ModelMetadata, check_url, model_metadata
from loadtests.open_loop import Plan, run_open_loop
from loadtests.payloads import InferRequest, RequestOptions, infer_requests
from loadtests.progress import showing
from loadtests.samples import samples_for
from loadtests.slo import try_one
from loadtests.summary import Judged, judge, quantile
from loadtests.timeline import Window, route_name, seconds_until_calm, timeline, violations

MET, MISSED, UNUSABLE = 0, 1, 2
CALM = ("student: confident", "teacher: escalated")
# Of the teacher's capacity, in requests. Even if all of them were the teacher's, it would stand idle most of the time.
CALM_LOAD = 0.15
CLOSED_LOOP_CLIENTS, CLOSED_LOOP_S = 4, 6.0
WARM_UP_S = 2.0


@dataclass(frozen=True)
class Arm:
    """One way to be answered; `deadline` says whether the objective is sent as the request's deadline."""

    name: str
    mode: str
    deadline: bool


ARMS = (
    Arm("tandem", "cascade", False),
    Arm("teacher, shedding", "teacher", True),
    Arm("teacher, queueing", "teacher", False),
)


@dataclass(frozen=True)
class ArmResult:
    """One arm in one round; all but `calm_after_s` and `calm_accuracy` are of the time under load.

    `teacher_share`: rows that the teacher answered, as a share of what it could have. `right_per_s`: right answers
    within the objective. Latencies and times are None where they are infinite.
    """

    arm: str
    rate: float
    requests: int
    violations: int
    errors: dict[str, int]
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    client_lag_p95_ms: float
    teacher_share: float
    right_per_s: float
    accuracy: float | None
    routes: dict[str, int]
    accuracy_by_route: dict[str, float]
    calm_after_s: float | None
    calm_accuracy: float | None


@dataclass(frozen=True)
class Round:
    capacity: float
    arms: tuple[ArmResult, ...]


@dataclass(frozen=True)
class Setting:
    url: str
    model: ModelMetadata
    requests: dict[str, list[InferRequest]]
    objective_ms: float
    load_s: float
    times: float
    arms: tuple[Arm, ...] = ARMS

    @property
    def duration_s(self) -> float:
        """Of the shape `drop`, six sevenths of which are under load."""
        return self.load_s * 7 / 6


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.overload", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="base URL of the endpoint (%(default)s)")
    parser.add_argument("--model", default="digits", help="name of the model (%(default)s)")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays 'inputs' and 'labels' to send")
    parser.add_argument("--times", type=float, default=3.0, help="of the teacher's capacity (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="under load, in each arm (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    parser.add_argument("--p95-ms", type=float, default=50.0, help="the objective (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("loadtests/reports/overload"), metavar="DIR")
    parser.add_argument(
        "--arms", nargs="+", choices=[arm.name for arm in ARMS], default=[arm.name for arm in ARMS], metavar="ARM",
        help="some of: 'tandem' 'teacher, shedding' 'teacher, queueing'",
    )  # fmt: skip
    parser.add_argument("--append", action="store_true", help="add the rounds to those that --out holds already")
    parser.add_argument("--allow-remote", action="store_true", help="load an address that is not loopback")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(argv)
    try:
        return _measure(arguments, shlex.join(["python", "-m", "loadtests.overload", *argv]))
    except (ValueError, OSError) as error:
        print(f"loadtests.overload: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("loadtests.overload: interrupted; what earlier rounds wrote is kept", file=sys.stderr)
        return UNUSABLE


def _measure(arguments: argparse.Namespace, command: str) -> int:
    from loadtests.overload_report import verdicts, write

    setting = _setting(arguments)
    file = arguments.out / "overload.json"
    rounds = read_rounds(file) if arguments.append and file.exists() else []
    windows: dict[str, list[Window]] = {}
    for number in range(len(rounds), len(rounds) + arguments.rounds):
        done, windows = _round(setting, number)
        rounds.append(done)
        write(arguments.out, setting, rounds, windows, command)
    found = verdicts(rounds, setting)
    for sentence, holds in found:
        print(f"{'MET' if holds else 'MISSED'}: {sentence}")
    return MET if all(holds for _, holds in found) else MISSED


def _setting(arguments: argparse.Namespace) -> Setting:
    url = check_url(arguments.url, arguments.allow_remote)
    model = model_metadata(url, arguments.model)
    samples = samples_for(model, arguments.inputs)
    requests = {}
    for arm in ARMS:
        options = RequestOptions(mode=arm.mode, deadline_ms=arguments.p95_ms if arm.deadline else None)
        requests[arm.name] = infer_requests(model, samples, options)
        try_one(url, requests[arm.name][0], timeout_s=10.0)
    arms = tuple(arm for arm in ARMS if arm.name in arguments.arms)
    return Setting(url, model, requests, arguments.p95_ms, arguments.seconds, arguments.times, arms)


def _round(setting: Setting, number: int) -> tuple[Round, dict[str, list[Window]]]:
    queueing = setting.requests[ARMS[-1].name]
    capacity = answered_per_s(run_closed_loop(setting.url, queueing, CLOSED_LOOP_CLIENTS, CLOSED_LOOP_S))
    if not capacity:
        raise ValueError("the teacher answered nothing: is it there, and does it take no longer than 10 s?")
    print(f"round {number + 1}: the teacher answers {capacity:.1f}/s", file=sys.stderr)
    results, windows = [], {}
    # Every round begins with another arm, so that none always follows the same one.
    arms, first = setting.arms, number % len(setting.arms)
    for arm in (*arms[first:], *arms[:first]):
        result, windows[arm.name] = _run_arm(setting, arm, capacity, seed=number)
        results.append(result)
        print(f"  {arm.name}: {result.violations:,} of {result.requests:,} violations", file=sys.stderr)
    return Round(capacity, tuple(results)), windows


def _run_arm(setting: Setting, arm: Arm, capacity: float, seed: int) -> tuple[ArmResult, list[Window]]:
    plan = Plan(
        rate=setting.times * capacity,
        duration_s=setting.duration_s,
        warmup_s=WARM_UP_S,
        shape="drop",
        base_rate=CALM_LOAD * capacity,
        seed=seed,
        max_in_flight=900,
    )
    with showing(plan) as on_progress:
        outcomes = run_open_loop(setting.url, setting.requests[arm.name], plan, on_progress)
    judged = [judge(outcome, setting.model.output.name) for outcome in outcomes]
    lags_ms = [(outcome.sent_s - outcome.scheduled_s) * 1e3 for outcome in outcomes if outcome.sent_s is not None]
    result = evaluate(judged, setting, arm, plan.rate, capacity)
    windows = timeline(judged, plan.duration_s, setting.objective_ms)
    return replace(result, client_lag_p95_ms=quantile(lags_ms, 0.95) if lags_ms else 0.0), windows


def evaluate(judged: Sequence[Judged], setting: Setting, arm: Arm, rate: float, capacity: float) -> ArmResult:
    """What one arm's requests say of it; those due after the load are of the way back to normal."""
    loaded = [item for item in judged if item.scheduled_s < setting.load_s]
    calm = [item for item in judged if item.scheduled_s >= setting.load_s]
    latencies_ms = [item.latency_ms for item in loaded]
    by_route: dict[str, list[Judged]] = {}
    for item in loaded:
        by_route.setdefault(route_name(item), []).append(item)
    within = [item for item in loaded if item.error is None and item.latency_ms <= setting.objective_ms]
    windows = timeline(judged, setting.duration_s, setting.objective_ms, width_s=0.5)
    return ArmResult(
        arm=arm.name,
        rate=rate,
        requests=len(loaded),
        violations=violations(loaded, setting.objective_ms),
        errors=dict(Counter(item.error for item in loaded if item.error is not None)),
        p50_ms=_finite(quantile(latencies_ms, 0.50)),
        p95_ms=_finite(quantile(latencies_ms, 0.95)),
        p99_ms=_finite(quantile(latencies_ms, 0.99)),
        client_lag_p95_ms=0.0,
        teacher_share=sum(item.variant == "teacher" for item in loaded if item.error is None)
        / (capacity * setting.load_s),
        right_per_s=sum(item.correct for item in within) / setting.load_s,
        accuracy=_accuracy(loaded),
        routes={name: len(items) for name, items in by_route.items()},
        accuracy_by_route={name: found for name, items in by_route.items() if (found := _accuracy(items)) is not None},
        calm_after_s=_finite(seconds_until_calm(windows, setting.load_s, (*CALM, "teacher: pinned"))),
        calm_accuracy=_accuracy(calm),
    )


def _accuracy(items: Sequence[Judged]) -> float | None:
    rows = sum(item.rows for item in items)
    return sum(item.correct for item in items) / rows if rows else None


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def read_rounds(file: Path) -> list[Round]:
    """The rounds of an earlier run; raises ValueError where `file` holds none."""
    try:
        data: list[dict[str, Any]] = json.loads(file.read_text())["rounds"]
        return [Round(item["capacity"], tuple(ArmResult(**arm) for arm in item["arms"])) for item in data]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no rounds of this benchmark ({error!r}); choose another --out") from error


def as_json(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    return [asdict(item) for item in rounds]


if __name__ == "__main__":
    sys.exit(main())
