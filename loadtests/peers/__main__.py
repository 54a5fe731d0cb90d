"""`python -m loadtests.peers`: Tandem and other model servers, the same model, the same cores, the same client.

Writes Markdown, a plot and JSON. Interrupted or stopped by --minutes, the same command with --resume goes on.
"""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from loadtests.peers.catalog import KINDS, PEERS, Peer, peer
from loadtests.peers.client import INSTALL_WRK, PythonClient, find_client
from loadtests.peers.environments import InstallError, install, versions
from loadtests.peers.model import sample_images, write_model
from loadtests.peers.process import ServerError
from loadtests.peers.profile import profile
from loadtests.peers.report import write_report
from loadtests.peers.results import Results, differing, machine, sha256_of
from loadtests.peers.rounds import Bench, Plan, Sample, rounds

_IMAGES = 64


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.peers", description=__doc__)
    names = [item.name for item in PEERS]
    parser.add_argument("--servers", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["image", "batch"], help="%(default)s")
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 64], help="%(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="at least 3 for a figure to publish (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (%(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="for server and client together (%(default)s; Linux)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no server after that")
    parser.add_argument("--resume", action="store_true", help="go on with what --out holds")
    parser.add_argument("--out", type=Path, default=Path("loadtests/reports/peers"), help="%(default)s")
    parser.add_argument(
        "--venvs", type=Path, default=Path("~/.cache/tandem/peers"), help="where servers are installed (%(default)s)"
    )
    parser.add_argument("--publish", type=Path, metavar="DIR", help="write table, plot and JSON here too")
    parser.add_argument("--install", action="store_true", help="install the servers and end")
    parser.add_argument("--report", action="store_true", help="write the report of what --out holds and end")
    parser.add_argument("--profile", action="store_true", help="instead of measuring: where each server's time goes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 where a server had to be left out; 2 where nothing could be measured."""
    argv = sys.argv[1:] if argv is None else argv
    options = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        return _bench(options, shlex.join(["python", "-m", "loadtests.peers", *argv]))
    except (ValueError, OSError) as error:
        print(f"loadtests.peers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loadtests.peers: interrupted; --resume goes on", file=sys.stderr)
        return 2


def _bench(options: argparse.Namespace, command: str) -> int:
    file = options.out / "peers.json"
    if options.report:
        results = Results.load(file)
        _print_files([*write_report(results, options.out, "peers"), *_publish(results, options.publish)])
        return 0
    environments = options.venvs.expanduser().resolve()
    peers, left_out = _installed([peer(name) for name in options.servers], environments)
    if options.install:
        return 1 if left_out else 0
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    client = find_client()
    if isinstance(client, PythonClient):
        print(f"wrk is not installed: {client.described} loads the servers instead. For figures {INSTALL_WRK}.")
    logs = options.out.resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    model = write_model(options.out.resolve() / "model.onnx")
    bench = Bench.prepare(model, sample_images(_IMAGES), client, environments, logs)
    if options.profile:
        return _profile(bench, peers, environments, options.out / "profile.md")
    plan = Plan(tuple(options.kinds), tuple(options.connections), options.seconds)
    about = {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(),
        "client": client.described,
        "model_sha256": sha256_of(model),
        "rounds": options.rounds,
        "plan": {**asdict(plan), "kinds": list(plan.kinds), "connections": list(plan.connections)},
        "versions": {item.name: versions(item.package, environments) for item in peers},
    }
    results = Results(about)
    if options.resume and file.exists():
        results = Results.load(file)
        if changed := differing(results.about, about):
            raise ValueError(
                f"{file} was measured with another {', '.join(changed)}: leave out --resume or change --out"
            )
        results.about["versions"] |= about["versions"]
        results.about["rounds"] = options.rounds
    results.skipped |= left_out
    finished = rounds(
        bench,
        peers,
        plan,
        options.rounds,
        results.has,
        lambda samples: _keep(results, samples, file),
        lambda item, reason: _skip(results, item, reason, file),
        time.monotonic() + 60 * options.minutes,
    )
    results.save(file)
    _print_files([file, *write_report(results, options.out, "peers"), *_publish(results, options.publish)])
    if not finished:
        print("Not all was measured: the same command with --resume goes on.")
    return 1 if results.skipped else 0


def _publish(results: Results, folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    results.save(folder / "peers.json")
    return write_report(results, folder, "peers")


def _installed(peers: Sequence[Peer], environments: Path) -> tuple[list[Peer], dict[str, str]]:
    ready, left_out = [], {}
    for item in peers:
        try:
            if item.package is not None:
                install(item.package, environments)
            ready.append(item)
        except InstallError as error:
            print(f"{item.title} is left out: {error}", file=sys.stderr)
            left_out[item.name] = str(error)
    return ready, left_out


def _profile(bench: Bench, peers: Sequence[Peer], environments: Path, out: Path) -> int:
    try:
        install("profile", environments)
    except InstallError as error:
        print(f"loadtests.peers: no profile without py-spy: {error}", file=sys.stderr)
        return 2
    sections = []
    for item in peers:
        try:
            sections.append(profile(bench, item, environments / "profile" / "bin" / "py-spy"))
            print(sections[-1], flush=True)
        except ServerError as error:
            print(f"{item.title}: {error}", file=sys.stderr)
    out.write_text("\n\n".join(["# Where the time of a request goes", *sections]) + "\n")
    _print_files([out])
    return 0 if sections else 2


def _keep(results: Results, samples: Sequence[Sample], file: Path) -> None:
    for sample in samples:
        load = sample.load
        said = f"{load.requests_per_s:8,.0f}/s  p50 {load.p50_ms:7.2f} ms  failed {load.failed}" if load else ""
        said = said or f"{sample.images_per_s:8,.0f} images/s"
        print(f"round {sample.round}  {sample.server:12} {sample.kind:6} c={sample.connections:<3} {said}", flush=True)
    results.samples.extend(samples)
    results.skipped.pop(samples[0].server, None)
    results.save(file)


def _skip(results: Results, item: Peer, reason: str, file: Path) -> None:
    print(f"{item.title}: {reason}", file=sys.stderr, flush=True)
    results.skipped[item.name] = reason[:600]
    results.save(file)


def _print_files(files: Sequence[Path]) -> None:
    for file in files:
        print(file)


if __name__ == "__main__":
    sys.exit(main())
