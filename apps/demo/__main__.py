"""`python -m apps.demo`, which `make demo` runs: three minutes that show what Tandem is for, until Ctrl-C.

Trains and builds the digits where its own state folder holds none (the first time), makes their teacher slow, serves
them, and plays apps/demo/script.py against the endpoint while a page shows what happens.
Exit status 0: shown; 1: a step failed; 2: the port or the state folder is in use; 130: stopped.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from apps.demo.board import Board
from apps.demo.picture import photograph, plot
from apps.demo.release import DemoRelease
from apps.demo.script import ACTS, Act
from apps.demo.show import Endpoint, Outcome, Show
from apps.launcher.deploy import DeployError
from apps.launcher.launch import Commands, Launch
from apps.launcher.local import ROOT, LocalCluster
from apps.launcher.process import ProcessError
from apps.launcher.stages import Stages
from apps.up import FAILED, IN_USE, INTERRUPTED, SERVED, InUseError, check_port, lock

MODEL = "digits"
APPLICATION = "tandem"
OBJECTIVE_MS, RESERVE_MS = 250.0, 50.0


def max_teachers() -> int:
    """One core is for the ingress, the load and the page: a teacher more than there are others would slow all down."""
    return min(3, max(1, (os.cpu_count() or 1) - 1))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apps.demo", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="of the endpoint (%(default)s)")
    parser.add_argument("--page-port", type=int, default=0, help="of the page (a free one by default)")
    parser.add_argument("--row-ms", type=float, default=60.0, help="what an image costs the teacher (%(default)s)")
    parser.add_argument("--deferred", type=float, default=0.35, help="share of images for the teacher (%(default)s)")
    parser.add_argument("--pace", type=float, default=1.0, help="1 is about three minutes, 2 half of it (%(default)s)")
    parser.add_argument("--state-dir", type=Path, default=ROOT / ".tandem" / "demo", metavar="DIR", help="%(default)s")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="default: demo.png in the state folder")
    parser.add_argument("--once", action="store_true", help="stop after the last act instead of keeping the page")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return demonstrate(options, console)
    except InUseError as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return IN_USE
    except (ProcessError, DeployError, RuntimeError) as error:
        console.print(f"[red]make demo failed:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def demonstrate(options: argparse.Namespace, console: Console) -> int:
    """Whatever way it ends, what it started has ended too."""
    check_port(options.port)
    stages = Stages(console)
    with ExitStack() as stack:
        stack.enter_context(lock(options.state_dir))
        cluster = LocalCluster(options.state_dir)
        stack.callback(_stop, cluster, stages)
        config = options.state_dir / "demo.yaml"
        commands = Commands.of(MODEL, options.state_dir.resolve())
        launch = Launch(cluster, stages, commands, MODEL, options.port, config)
        if launch.start_cluster() is None:
            launch.make_models()
        release = make_release(cluster, stages, options)
        shipped = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        config.write_text(yaml.safe_dump(demo_config(shipped, release.number), sort_keys=False))
        launch.deploy()
        launch.predict()
        endpoint = Endpoint(
            url=launch.endpoint_url,
            dashboard_url=cluster.ray.dashboard_url,
            application=APPLICATION,
            model=MODEL,
            inputs=demo_inputs(cluster),
            release=release,
            objective_ms=OBJECTIVE_MS,
            max_replicas=max_teachers(),
        )
        acts = [replace(act, seconds=act.seconds / options.pace) for act in ACTS]
        asyncio.run(show(endpoint, acts, cluster, options, console))
    return SERVED


def demo_inputs(cluster: LocalCluster) -> Path:
    return cluster.state_dir / "demo-inputs.npz"


def make_release(cluster: LocalCluster, stages: Stages, options: argparse.Namespace) -> DemoRelease:
    module = "apps.demo.release"
    command = [sys.executable, "-m", module, MODEL, f"--row-ms={options.row_ms}", f"--deferred={options.deferred}"]
    log_path = cluster.log_dir / "demo-release.log"
    stages.run(
        "Make the teacher slow",
        [*command, f"--cache-dir={cluster.cache_dir}", f"--inputs={demo_inputs(cluster)}"],
        env=cluster.environment,
        log_path=log_path,
        cwd=ROOT,
    )
    return DemoRelease(**json.loads(log_path.read_text().strip().rpartition("\n")[2]))


def demo_config(shipped: dict[str, Any], release: int) -> dict[str, Any]:
    """The shipped Serve config with the demo's Release and objective."""
    (application,) = shipped["applications"]
    application["name"] = APPLICATION
    application["args"] = {
        "model": MODEL,
        "releases": [{"ref": str(release)}],
        "deadline_ms": OBJECTIVE_MS,
        "reserve_ms": RESERVE_MS,
        "max_batch_rows": 4,
    }
    (teacher,) = (item for item in application["deployments"] if item["name"] == "Teacher")
    scaling = teacher["autoscaling_config"]
    scaling |= {"min_replicas": 1, "max_replicas": max_teachers(), "downscale_delay_s": 10}
    scaling["policy"]["policy_kwargs"] |= {"p95_ms": OBJECTIVE_MS - RESERVE_MS, "cooldown_s": 10}
    return shipped


async def show(
    endpoint: Endpoint, acts: Sequence[Act], cluster: LocalCluster, options: argparse.Namespace, console: Console
) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    board = Board()
    await board.start(options.page_port)
    try:
        console.print(f"\n[bold]Open {board.url} to watch.[/bold]\n", highlight=False)
        outcome = await Show(endpoint, board, acts, say).play(cluster.environment)
        say("")
        for sentence in outcome.sentences:
            say(sentence)
        picture = options.picture or options.state_dir / "demo.png"
        await asyncio.to_thread(_save, outcome, endpoint, acts, board.url, picture)
        say(f"Picture: {picture}")
        if not options.once:
            say(f"The page stays at {board.url}, the endpoint at {endpoint.url}. Ctrl-C stops everything.")
            await _stay(cluster)
    finally:
        await board.stop()


async def _stay(cluster: LocalCluster) -> None:
    """Until Ctrl-C, which is how it should end; raises ProcessError when a server ends by itself."""
    try:
        while (ended := cluster.ended_process()) is None:
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        return
    raise ended.describe_failure(f"ended by itself with status {ended.returncode}")


def _save(outcome: Outcome, endpoint: Endpoint, acts: Sequence[Act], page_url: str, picture: Path) -> None:
    """What was seen as JSON beside the picture of it."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    seen = {
        "release": asdict(endpoint.release),
        "objective_ms": endpoint.objective_ms,
        "acts": [{**asdict(act), **row} for act, row in zip(acts, outcome.rows, strict=True)],
    }
    picture.with_suffix(".json").write_text(json.dumps(seen, indent=2) + "\n")
    if not photograph(page_url, picture):
        plot(outcome.samples, acts, endpoint.objective_ms, picture)


def _stop(cluster: LocalCluster, stages: Stages) -> None:
    # A second Ctrl-C would not make it quicker: every wait below has a limit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with stages.stage("Stop everything that was started"):
        cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
