"""A crew: processes that train together, started once for all tests of a session, on loopback, each with one thread."""

import os
import socket
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from training.parallel.closing import close_process_group

# What a process needs is imported once, in the server that all are forked from: it takes seconds.
PRELOADED = (
    "tests.training.parallel.trainings",
    "training.loop.fit",
    "training.parallel.replicas",
    "training.parallel.pipeline",
    "training.parallel.sharded_state",
)
PATIENCE_S = 120.0


class Crew:
    """`run(n, work, ...)` calls `work(rank, n, ...)` in n processes that form one group; what they return, by rank."""

    def __init__(self, size: int) -> None:
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._size = size
        self._members: list[tuple[Any, Connection]] = []

    def run(self, count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Raises what one of them raised, or a TimeoutError; the crew is then made anew for the next call."""
        assert count <= self._size
        if not self._members:
            self._members = [self._hire() for _ in range(self._size)]
        port = free_port()
        for rank, (_, pipe) in enumerate(self._members[:count]):
            pipe.send((rank, count, port, work, arguments))
        try:
            return self._collect(count)
        except BaseException:
            self.dismiss()
            raise

    def _collect(self, count: int) -> list[Any]:
        """As they come: when one has failed the others may wait for it for ever."""
        ranks = {pipe: rank for rank, (_, pipe) in enumerate(self._members[:count])}
        results: dict[int, Any] = {}
        deadline = time.monotonic() + PATIENCE_S
        while len(results) < count:
            ready = wait([pipe for pipe, rank in ranks.items() if rank not in results], deadline - time.monotonic())
            if not ready:
                raise TimeoutError(f"processes {sorted({*range(count)} - {*results})} did not answer in {PATIENCE_S} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = ranks[pipe]
                try:
                    results[rank] = pipe.recv()
                except (EOFError, ConnectionResetError):
                    raise RuntimeError(f"process {rank} died with {self._members[rank][0].exitcode}") from None
                if isinstance(results[rank], _Failure):
                    raise results[rank].error from RuntimeError(results[rank].trace)
        return [results[rank] for rank in range(count)]

    def dismiss(self) -> None:
        for process, pipe in self._members:
            pipe.close()
            process.kill()
            process.join()
        self._members = []

    def _hire(self) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return process, ours


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error, self.trace = error, traceback.format_exc()


def _serve(pipe: Connection) -> None:
    import torch

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    while True:
        try:
            rank, count, port, work, arguments = pipe.recv()
        except EOFError:
            return
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count,
            timeout=timedelta(seconds=PATIENCE_S / 2),
        )  # fmt: skip
        try:
            pipe.send(work(rank, count, *arguments))
        except Exception as error:
            pipe.send(_Failure(error))
        finally:
            close_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
