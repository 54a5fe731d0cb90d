"""`python -m apps.up`, which `make up` runs: from nothing to a served, load-tested model, until Ctrl-C.

Exit status 0: served and was told to stop; 1: a step failed; 2: the port or the state folder is in use, nothing was
started; 130: stopped before it served.
"""

import argparse
import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.markup import escape

from apps.launcher.deploy import GRPC_PORT_OFFSET, DeployError
from apps.launcher.launch import Commands, Launch
from apps.launcher.local import ROOT, LocalCluster
from apps.launcher.ports import find_holder, is_free, kept_from_others
from apps.launcher.process import ProcessError
from apps.launcher.stages import Stages

SERVED, FAILED, IN_USE, INTERRUPTED = 0, 1, 2, 130


class InUseError(RuntimeError):
    """Something else holds what we need; nothing was started."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apps.up", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--port", type=_port, default=8000, help="of the endpoint (%(default)s)")
    parser.add_argument("--model", default="digits", help="which task to train and serve (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="train and build anew though a Release is registered")
    parser.add_argument("--data-dir", metavar="PLACE", help="where the task's own files lie: a folder, s3:// or gs://")
    parser.add_argument("--state-dir", type=Path, default=ROOT / ".tandem", metavar="DIR", help="%(default)s")
    parser.add_argument(
        "--num-cpus", type=int, metavar="N", help="logical CPUs of the Ray head (at least 4 by default)"
    )
    parser.add_argument("--once", action="store_true", help="stop after the table instead of serving on")
    return parser


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else 0
    if not 0 < port < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is no TCP port: give a number from 1 to 65535")
    return port


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return up(options, Commands.of(options.model, options.state_dir.resolve(), options.data_dir), console)
    except InUseError as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return IN_USE
    except (ProcessError, DeployError) as error:
        console.print(f"[red]make up failed:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def up(options: argparse.Namespace, commands: Commands, console: Console) -> int:
    """Run every step, then serve; whatever way it ends, what it started has ended too."""
    check_port(options.port)
    stages = Stages(console)
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(lock(options.state_dir))
        with kept_from_others((options.port, options.port + GRPC_PORT_OFFSET)):
            cluster = LocalCluster(
                options.state_dir, num_cpus=options.num_cpus, tracking_uri=os.environ.get("MLFLOW_TRACKING_URI")
            )
        stack.callback(_stop, cluster, stages)
        write_environment(cluster, stack)
        launch = Launch(cluster, stages, commands, options.model, options.port)
        champion = launch.start_cluster()
        if champion is None or options.fresh:
            champion = launch.make_models()
        launch.deploy()
        curl = launch.predict()
        serving_after_s = time.monotonic() - began
        launch.load_test()
        launch.show(champion, curl)
        console.print(f"Serving since {serving_after_s:.0f} s after the start.", highlight=False)
        if not options.once:
            console.print(
                "Ctrl-C stops everything. For serve, ray and python -m training.train in another terminal, first: "
                f". {shlex.quote(str(_env_file(cluster)))}",
                highlight=False,
                soft_wrap=True,
            )
            serve_until_told(cluster)
    return SERVED


def check_port(port: int) -> None:
    """Raises InUseError that names who listens on `port`, or on that of gRPC, and how to choose another."""
    for wanted in (port, port + GRPC_PORT_OFFSET):
        if not is_free(wanted):
            others = range(port + 1, min(port + 100, 65_536 - GRPC_PORT_OFFSET))
            other = next((free for free in others if is_free(free) and is_free(free + GRPC_PORT_OFFSET)), None)
            advice = f"Stop that, or choose another port: make up PORT={other or 'N'}"
            what = f"Port {wanted}" if wanted == port else f"Port {wanted}, for gRPC,"
            raise InUseError(f"{what} is taken by {find_holder(wanted)}. {advice}\nNothing was started.")


def lock(state_dir: Path) -> IO[str]:
    """Hold `state_dir` for this process; closing the file, or dying, lets it go. Raises InUseError."""
    state_dir.mkdir(parents=True, exist_ok=True)
    file = (state_dir / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise InUseError(
            f"Another `make up` (pid {holder}) runs with {state_dir}. Stop it, or give this one a folder of its own: "
            "python -m apps.up --state-dir DIR\nNothing was started."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def write_environment(cluster: LocalCluster, stack: ExitStack) -> None:
    """Write the addresses to `env` in the state folder, for `.` in another shell; gone when the cluster is."""
    lines = [
        f"export {name}={shlex.quote(value)}\n"
        for name, value in cluster.environment.items()
        if name.startswith(("RAY_", "MLFLOW_TRACKING_URI"))
    ]
    file = _env_file(cluster)
    file.write_text("".join(sorted(lines)))
    stack.callback(file.unlink, missing_ok=True)


def _env_file(cluster: LocalCluster) -> Path:
    return cluster.state_dir / "env"


def serve_until_told(cluster: LocalCluster) -> None:
    """Return on Ctrl-C or SIGTERM; raise ProcessError when a server ends by itself."""
    try:
        while (ended := cluster.ended_process()) is None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        return
    raise ended.describe_failure(f"ended by itself with status {ended.returncode}")


def _stop(cluster: LocalCluster, stages: Stages) -> None:
    # A second Ctrl-C would not make it quicker: every wait below has a limit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with stages.stage("Stop everything that was started"):
        cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
