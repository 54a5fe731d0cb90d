"""A command that runs beside us, under a guard, with its output in a log file."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")


class ProcessError(RuntimeError):
    """A command failed or did not get ready in time; the text holds the end of its log."""


class Process:
    """One command in a session of its own, ended by `stop`, or by its guard when this process dies.

    `name` is what messages call it. Standard output and error go to `log_path`, which is begun anew.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log_path: Path,
        cwd: Path | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log_path = log_path
        self._env = dict(env)
        self._cwd = cwd
        self._grace_s = grace_s
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._guard is None, f"{self.name} was started twice"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(self._grace_s), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    @property
    def returncode(self) -> int | None:
        """The command's exit status, or None while it runs."""
        assert self._guard is not None, f"{self.name} was not started"
        status = self._guard.poll()
        if status is not None:
            self._close_pipe()
        return status

    def wait(self, timeout_s: float) -> int | None:
        """The exit status, or None if the command still runs after `timeout_s`."""
        assert self._guard is not None, f"{self.name} was not started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout_s)
        return self.returncode

    def ask_to_stop(self) -> None:
        """Begin what `stop` completes, without waiting."""
        if self._guard is not None and self._guard.poll() is None:
            self._guard.terminate()

    def stop(self) -> None:
        """End the command and everything it started; does nothing where it has ended or was never started."""
        if self._guard is None or self._guard.poll() is not None:
            self._close_pipe()
            return
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(self._guard.pid).children(recursive=True)
            self._guard.terminate()
            self.wait(self._grace_s + 5.0)
            for survivor in psutil.wait_procs(descendants, timeout=1.0)[1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    survivor.kill()
        self._close_pipe()
        if self.wait(5.0) is None:
            self._guard.kill()
            self._guard.wait()

    def _close_pipe(self) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log; of a line that was rewritten in place (a progress bar), its last state."""
        with self.log_path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - 200 * lines))
            text = log.read().decode(errors="replace")
        states = (line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n"))
        return "\n".join([state for state in states if state][-lines:])

    def describe_failure(self, what: str) -> ProcessError:
        return ProcessError(f"{self.name} {what}. The end of its log ({self.log_path}):\n{self.tail()}")


def wait_for_url(url: str, process: Process, *, timeout_s: float) -> None:
    """Return when `url` answers 200; raise ProcessError when `process` ends or `timeout_s` passes first."""
    import httpx

    deadline = time.monotonic() + timeout_s
    # Proxies from the environment are for the outside world, never for loopback.
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise process.describe_failure(f"ended with status {process.returncode} before it was ready")
            with contextlib.suppress(httpx.HTTPError):
                if client.get(url).status_code == 200:
                    return
            time.sleep(0.2)
    raise process.describe_failure(f"was not ready after {timeout_s:.0f} s (no answer from {url})")
