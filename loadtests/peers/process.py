"""A server of the comparison as a process: started in a group of its own, waited for, ended by its id."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_FIRST_PORT, _LAST_PORT, _STEP = 33_000, 38_000, 10
_GRACE_S = 20.0


class ServerError(RuntimeError):
    """A server did not start, or did not answer as it should; the text holds the end of its log."""


def free_ports(count: int) -> int:
    """The first of `count` neighbouring free ports on loopback (at most 10)."""
    for first in range(_FIRST_PORT, _LAST_PORT, _STEP):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise ServerError(f"no {count} neighbouring free ports between {_FIRST_PORT} and {_LAST_PORT}")


class ServerProcess:
    """One command with its output in `log`. As a context manager it has ended after the block, children included."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self._command, self._env, self._cwd, self._log = command, env, cwd, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def __enter__(self) -> "ServerProcess":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self._env),
                cwd=self._cwd,
                start_new_session=True,
            )
        return self

    def wait_until(self, ready: Callable[[], str | None], timeout_s: float) -> None:
        """Return when `ready` returns None; until then it says what is missing. Raises ServerError."""
        assert self._process is not None, "not started"
        deadline = time.monotonic() + timeout_s
        while (missing := ready()) is not None:
            status = self._process.poll()
            if status is not None:
                raise ServerError(f"the server ended with status {status} before it was ready:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"not ready after {timeout_s:.0f} s: {missing}\n{self.tail()}")
            time.sleep(0.2)

    def tail(self, characters: int = 1500) -> str:
        return self._log.read_text(errors="replace")[-characters:]

    def __exit__(self, *_: object) -> None:
        import psutil

        assert self._process is not None, "not started"
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children(recursive=True)
        # The first process alone: servers that close in an orderly way tell their own children.
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        survivors = psutil.wait_procs(children, timeout=3.0)[1]
        for child in survivors:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
