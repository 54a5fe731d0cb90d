"""Replicas by time: how many of each deployment run, as Ray's dashboard says."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from loadtests.endpoint import direct_opener

MAX_STATUS_BYTES = 10_000_000


@dataclass
class ReplicaWatch:
    """Samples of (seconds since the watch began, running replicas of each deployment); `problem` is the last error."""

    samples: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    problem: str = ""

    def since(self, began_s: float) -> list[tuple[float, dict[str, int]]]:
        """The same, counted from `began_s` after the watch began."""
        return [(at_s - began_s, counts) for at_s, counts in self.samples]


@contextmanager
def watching(dashboard_url: str | None, every_s: float = 1.0) -> Iterator[ReplicaWatch]:
    """Ask the dashboard while the block runs; without an address there is nothing to ask."""
    watch = ReplicaWatch()
    if dashboard_url is None:
        yield watch
        return
    began, stop = time.perf_counter(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                counts = running_replicas(dashboard_url, timeout_s=5.0)
                watch.samples.append((time.perf_counter() - began, counts))
            except (OSError, HTTPException, ValueError) as error:
                watch.problem = str(error)
            stop.wait(every_s)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join(10)


def running_replicas(dashboard_url: str, timeout_s: float) -> dict[str, int]:
    """Running replicas of every deployment of every application; raises OSError or ValueError."""
    url = f"{dashboard_url.rstrip('/')}/api/serve/applications/"
    with direct_opener().open(url, timeout=timeout_s) as response:
        answer: Any = json.loads(response.read(MAX_STATUS_BYTES))
    try:
        return {
            name: sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])
            for application in answer["applications"].values()
            for name, deployment in application["deployments"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"GET {url}: this is not Ray Serve's status ({error!r})") from error
