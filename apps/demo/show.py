"""Show: plays the script against a running endpoint, and keeps the page told."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from apps.demo.board import Board
from apps.demo.release import DemoRelease
from apps.demo.script import Act, Recorder, Sample, verdict
from apps.demo.traffic import Window
from apps.launcher.local import ROOT

POLL_S = 0.5
# After this much of its act, so that the page shows what was before.
KILL_AFTER_S = 4.0
REPORT_BYTES = 2**20


@dataclass(frozen=True)
class Endpoint:
    """What is shown: where it answers, what Ray says of it, and how it was made."""

    url: str
    dashboard_url: str
    application: str
    model: str
    inputs: Path
    release: DemoRelease
    objective_ms: float
    max_replicas: int

    def rate(self, act: Act) -> float:
        """Requests a second at which the rows that the student defers are `act.load` teachers' work."""
        return act.load * self.release.teacher_rows_per_s / self.release.deferred


@dataclass(frozen=True)
class Outcome:
    """`sentences` is what was seen, act by act."""

    sentences: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    samples: Sequence[Sample]


class Show:
    def __init__(self, endpoint: Endpoint, board: Board, acts: Sequence[Act], say: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._board = board
        self._acts = acts
        self._say = say
        self._recorder = Recorder(acts, endpoint.objective_ms)
        self._act = 0
        self._now_s = 0.0
        self._teachers: list[int] = []
        self._starting = 0

    async def play(self, environment: Mapping[str, str]) -> Outcome:
        """Raises RuntimeError where the load cannot be made."""
        endpoint = self._endpoint
        self._board.publish("facts", **self._facts())
        command = ("apps.demo.traffic", endpoint.url, endpoint.model, str(endpoint.inputs), str(endpoint.objective_ms))
        pipe = asyncio.subprocess.PIPE
        traffic = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command),
            stdin=pipe,
            stdout=pipe,
            cwd=ROOT,
            env=dict(environment),
            limit=REPORT_BYTES,
            # A Ctrl-C on the terminal is ours to hear: the end of its input ends it.
            start_new_session=True,
        )
        assert traffic.stdin is not None and traffic.stdout is not None
        tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._listen(traffic.stdout))]
        try:
            await asyncio.wait(
                [tasks[1], directing := asyncio.create_task(self._direct(traffic.stdin))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not directing.done():
                directing.cancel()
                raise RuntimeError("the load ended before the demonstration did")
            directing.result()
        finally:
            for task in tasks:
                task.cancel()
            if traffic.returncode is None:
                traffic.terminate()
                await traffic.wait()
        return self._conclude()

    def _facts(self) -> dict[str, Any]:
        endpoint, release = self._endpoint, self._endpoint.release
        text = (
            f"The teacher takes {release.row_ms:.0f} ms an image here, since it looks at {release.views:,} moved "
            f"views of each: {release.teacher_rows_per_s:.0f} images a second. The student takes a fraction of one "
            f"and defers {release.deferred:.0%} of them by a threshold chosen for this demonstration. The images are "
            "test digits moved by a pixel, which neither is used to."
        )
        return {
            "text": text,
            "acts": [asdict(act) for act in self._acts],
            "seconds": sum(act.seconds for act in self._acts),
            "objective_ms": endpoint.objective_ms,
            "highest_rate": max(endpoint.rate(act) for act in self._acts),
            "max_replicas": endpoint.max_replicas,
            "teacher_rows_per_s": release.teacher_rows_per_s,
            "deferred": release.deferred,
            "teacher_accuracy": release.teacher_accuracy,
            "student_accuracy": release.student_accuracy,
        }

    async def _direct(self, orders: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        for number, act in enumerate(self._acts):
            ends = loop.time() + act.seconds
            self._act = number
            rate = self._endpoint.rate(act)
            self._board.publish("act", act=number, at_s=self._now_s)
            self._say(f"{act.title}: {rate:.0f} requests/s for {act.seconds:.0f} s. {act.says}")
            orders.write(json.dumps({"rate": rate, "mode": act.mode, "act": number}).encode() + b"\n")
            await orders.drain()
            if act.kills:
                await asyncio.sleep(min(KILL_AFTER_S, act.seconds / 4))
                self._kill()
            await asyncio.sleep(max(0.0, ends - loop.time()))

    def _kill(self) -> None:
        killed = list(self._teachers)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        self._teachers = []
        self._board.publish("note", at_s=self._now_s, text="kill -9")
        self._say(f"kill -9 {' '.join(map(str, killed))}")

    async def _listen(self, reports: asyncio.StreamReader) -> None:
        while line := await reports.readline():
            windows = [Window(**window) for window in json.loads(line)]
            self._now_s = windows[0].at_s
            rate = self._endpoint.rate(self._acts[self._act])
            sample = self._recorder.add(windows, self._act, rate, len(self._teachers), self._starting)
            self._board.publish("sample", **asdict(sample))

    async def _watch(self) -> None:
        """Which replicas of the teacher there are, as Ray Serve says."""
        async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
            while True:
                try:
                    answer = await client.get(f"{self._endpoint.dashboard_url}/api/serve/applications/")
                    self._note_replicas(answer.json())
                except (httpx.HTTPError, ValueError, KeyError):
                    pass  # the next look will tell
                await asyncio.sleep(POLL_S)

    def _note_replicas(self, answer: Mapping[str, Any]) -> None:
        replicas = answer["applications"][self._endpoint.application]["deployments"]["Teacher"]["replicas"]
        running = [int(one["pid"]) for one in replicas if one["state"] == "RUNNING" and one["pid"]]
        # Ray Serve notices a death a moment after it.
        self._teachers = [pid for pid in running if _is_alive(pid)]
        self._starting = sum(one["state"] == "STARTING" for one in replicas)

    def _conclude(self) -> Outcome:
        rows = [{"title": act.title, **seen} for act, seen in zip(self._acts, self._recorder.summaries(), strict=True)]
        sentences = verdict(self._acts, self._recorder.summaries(), self._endpoint.objective_ms)
        tandem = [row for act, row in zip(self._acts, rows, strict=True) if act.mode == "cascade"]
        requests = sum(row["requests"] for row in tandem)
        in_time = sum((row["in_time"] or 0.0) * row["requests"] for row in tandem)
        unanswered = sum(row["unanswered"] for row in tandem)
        stayed = (
            f"In tandem, {in_time / max(1, requests):.1%} of {requests:,} requests were answered within "
            f"{self._endpoint.objective_ms:.0f} ms and {unanswered or 'none'} went unanswered."
        )
        self._board.publish("verdict", rows=rows, stayed=stayed)
        return Outcome([stayed, *sentences], rows, self._recorder.samples)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
