"""`python -m loadtests.cascade`: what a row costs through HTTP, of the cascade, of its teacher and of its student.

Clients that wait for each answer send the same requests to all three in turn, round by round, for each number of
clients and of rows a request. Exit code 0: the cascade takes no more than --limit of the teacher's time at every size;
1: it takes more; 2: nothing could be measured.
"""

import argparse
import asyncio
import itertools
import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from loadtests.endpoint import ModelMetadata, check_url, model_metadata
from loadtests.open_loop import Outcome, open_transport
from loadtests.payloads import InferRequest, RequestOptions, infer_requests
from loadtests.report import machine, versions
from loadtests.samples import samples_for
from loadtests.slo import try_one
from loadtests.summary import UNKNOWN, judge
from loadtests.transports import Reply, Transport, TransportError

MET, MISSED, UNUSABLE = 0, 1, 2
MODES = ("cascade", "teacher", "student")
TIMEOUT_S = 10.0
# Of each client in a round, at least.
MIN_REQUESTS = 10


@dataclass(frozen=True)
class Turn:
    """One mode in one round: milliseconds a row on the client's clock, and rows by who answered them."""

    mode: str
    row_ms: float
    rows: int
    correct: int
    answered_by: Mapping[str, int]


@dataclass(frozen=True)
class Size:
    """All turns of requests of `batch` rows by `clients` at a time, round by round."""

    clients: int
    batch: int
    turns: tuple[Turn, ...]

    def row_ms(self, mode: str) -> list[float]:
        """By round."""
        return [turn.row_ms for turn in self.turns if turn.mode == mode]

    def shares(self, mode: str) -> list[float]:
        """The time of a mode as a share of the teacher's in the same round."""
        return [one / whole for one, whole in zip(self.row_ms(mode), self.row_ms("teacher"), strict=True)]

    def accuracy(self, mode: str) -> float:
        turns = [turn for turn in self.turns if turn.mode == mode]
        return sum(turn.correct for turn in turns) / sum(turn.rows for turn in turns)

    def deferred(self) -> float:
        """Rows that the cascade left to its teacher, as a share."""
        turns = [turn for turn in self.turns if turn.mode == "cascade"]
        return sum(turn.answered_by.get("teacher", 0) for turn in turns) / sum(turn.rows for turn in turns)


def measure(
    url: str, model: ModelMetadata, requests: Mapping[str, Sequence[InferRequest]], rounds: int, clients: int
) -> list[Turn]:
    """`requests` by mode, the same rows in each; a round before the first warms up.

    Raises ValueError where a request is not answered, or not in the way that was asked for.
    """

    async def turn(transport: Transport, mode: str) -> Turn:
        left, outcomes, began = iter(requests[mode]), list[Outcome](), perf_counter()

        async def client() -> None:
            for request in left:
                outcomes.append(Outcome(0.0, request, sent_s=0.0, reply=await transport.send(request)))

        try:
            await asyncio.gather(*(client() for _ in range(clients)))
        except TransportError as error:
            raise ValueError(f"a request in mode {mode} came to nothing: {error}") from error
        return _turn(mode, perf_counter() - began, outcomes, model.output.name)

    async def main() -> list[Turn]:
        transport = open_transport(url, TIMEOUT_S)
        try:
            # Every round begins with another mode, so that none always follows the same one.
            orders = [(*MODES[number % 3 :], *MODES[: number % 3]) for number in range(-1, rounds)]
            turns = [[await turn(transport, mode) for mode in order] for order in orders]
        finally:
            await transport.close()
        return [one for some in turns[1:] for one in some]

    return asyncio.run(main())


def _turn(mode: str, seconds: float, outcomes: Sequence[Outcome], output: str) -> Turn:
    answered_by: Counter[str] = Counter()
    rows = correct = 0
    for outcome in outcomes:
        outcome.done_s = 0.0
        judged = judge(outcome, output)
        if judged.error is not None or outcome.reply is None:
            raise ValueError(f"a request in mode {mode} failed: {judged.error} {judged.detail}")
        rows, correct = rows + judged.rows, correct + judged.correct
        for variant, reason in _routes(outcome.reply, judged.rows):
            if reason.startswith("fallback") or (mode != "cascade" and variant != mode):
                raise ValueError(f"mode {mode} was asked for, and a row was answered by {variant} ({reason})")
            answered_by[variant] += 1
    return Turn(mode, 1000 * seconds / rows, rows, correct, dict(answered_by))


def _routes(reply: Reply, rows: int) -> list[tuple[str, str]]:
    """Who answered each row, and why: of several rows the answer's parameters say it, of one the headers."""
    length = int(reply.headers.get("inference-header-content-length", len(reply.body)))
    told = json.loads(reply.body[:length]).get("parameters", {})
    found = [
        str(told.get(name, reply.headers.get(f"x-tandem-{name}", UNKNOWN))).split(",") for name in ("variant", "reason")
    ]
    return list(zip(*(one * rows if len(one) == 1 else one for one in found), strict=True))


def markdown(model: str, sizes: Sequence[Size], limit: float, facts: str, command: str) -> str:
    lines = [
        f"# The cascade of {model} through HTTP",
        "",
        "| clients | rows a request | cascade, ms a row | teacher | student | the cascade's share of the teacher's "
        "time | left to the teacher | accuracy of the cascade | of the teacher | of the student |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        times = [_spread(size.row_ms(mode), "{:.3f}") for mode in MODES]
        accuracies = [f"{size.accuracy(mode):.2%}" for mode in MODES]
        share = _spread(size.shares("cascade"), "{:.1%}")
        cells = (str(size.clients), str(size.batch), *times, share, f"{size.deferred():.1%}", *accuracies)
        lines.append(f"| {' | '.join(cells)} |")
    rounds, rows = len(sizes[0].row_ms("cascade")), sorted({turn.rows for size in sizes for turn in size.turns})
    lines += [
        "",
        *(f"- {sentence}: {'met' if holds else 'missed'}" for sentence, holds in verdicts(sizes, limit)),
        "",
        f"Clients wait for each answer; medians of {rounds} rounds in turn (lowest to highest), each of "
        f"{' or '.join(f'{count:,}' for count in rows)} rows, the same for all three. A teacher that is asked for by "
        "name answers every row; the student answers in the process that takes the request. Server and client share "
        "the machine.",
        "",
        f"{facts}.",
        "",
        f"Measured by `{command}`.",
        "",
    ]
    return "\n".join(lines)


def verdicts(sizes: Sequence[Size], limit: float) -> list[tuple[str, bool]]:
    found = []
    for size in sizes:
        share = median(size.shares("cascade"))
        clients = "1 client" if size.clients == 1 else f"{size.clients} clients"
        rows = "1 row" if size.batch == 1 else f"{size.batch} rows"
        sentence = f"{clients}, {rows} a request: {share:.1%} of the teacher's time, at most {limit:.0%}"
        found.append((sentence, share <= limit))
    return found


def _spread(values: Sequence[float], form: str) -> str:
    return f"{form.format(median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def _measure(arguments: argparse.Namespace, command: str) -> int:
    url = check_url(arguments.url, arguments.allow_remote)
    model = model_metadata(url, arguments.model)
    samples = samples_for(model, arguments.inputs)
    sizes = []
    for clients, batch in itertools.product(arguments.clients, arguments.batches):
        count = max(1, min(arguments.rows, len(samples)) // batch)
        times = -(-MIN_REQUESTS * clients // count)  # round the bodies again, so that no client idles for long
        # The deadline is out of play: a row that the student answers because the teacher is late would look cheap.
        options = {mode: RequestOptions(batch, mode, deadline_ms=1000 * TIMEOUT_S) for mode in MODES}
        requests = {mode: times * infer_requests(model, samples, options[mode], limit=count) for mode in MODES}
        for mode in MODES:
            try_one(url, requests[mode][0], timeout_s=TIMEOUT_S)
        sizes.append(Size(clients, batch, tuple(measure(url, model, requests, arguments.rounds, clients))))
        print(verdicts(sizes[-1:], arguments.limit)[0][0], file=sys.stderr)
    facts = "; ".join(f"{name} {value}" for name, value in (machine() | versions()).items())
    name = f"cascade-http-{arguments.model}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = {
        "command": command,
        "model": arguments.model,
        "releases": model.versions,
        "limit": arguments.limit,
        "machine": machine(),
        "versions": versions(),
        "sizes": [asdict(size) for size in sizes],
        "verdicts": [{"sentence": sentence, "holds": holds} for sentence, holds in verdicts(sizes, arguments.limit)],
    }
    (arguments.out / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    page = markdown(arguments.model, sizes, arguments.limit, facts, command)
    (arguments.out / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)
    return MET if all(holds for _, holds in verdicts(sizes, arguments.limit)) else MISSED


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.cascade", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="base URL of the endpoint (%(default)s)")
    parser.add_argument("--model", default="digits", help="name of the model (%(default)s)")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="arrays 'inputs' and 'labels' to send")
    parser.add_argument("--clients", type=_positive, nargs="+", default=[1, 8], help="at a time (%(default)s)")
    parser.add_argument("--batches", type=_positive, nargs="+", default=[1, 8, 32], help="rows a request (%(default)s)")
    parser.add_argument("--rows", type=_positive, default=800, help="in each round and mode (%(default)s)")
    parser.add_argument("--rounds", type=_positive, default=7, help="%(default)s")
    parser.add_argument("--limit", type=float, default=0.5, help="share of the teacher's time (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("loadtests/reports/cascade"), metavar="DIR")
    parser.add_argument("--allow-remote", action="store_true", help="load an address that is not loopback")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number above 0")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(argv)
    try:
        return _measure(arguments, shlex.join(["python", "-m", "loadtests.cascade", *argv]))
    except (ValueError, OSError) as error:
        print(f"loadtests.cascade: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("loadtests.cascade: interrupted; nothing was written", file=sys.stderr)
        return UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
