"""Request log: one JSON line a request, written by a thread of its own. No payloads, no keys."""

import itertools
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field

REQUEST_ID = "x-request-id"
# A longer one, or one with odd characters, is not taken over: it would be written into logs and headers.
MAX_ID_LENGTH = 128
_FLUSH_S = 0.5
# Then the writer gives way to the event loop, which would else wait for it.
_LINES_A_TURN = 50
# More lines than this between two flushes are counted, not kept.
MAX_WAITING = 20_000


class RequestLogArgs(BaseModel):
    """`access_log:` in serve_config.yaml; `folder` is by default that of Ray Serve's own logs.

    `sample_ratio` of the answers below status 400 are logged, and everything else. `max_bytes` bounds a file, of which
    one older one is kept.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    folder: str | None = None
    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    max_bytes: int = Field(default=100_000_000, ge=10_000)


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `release`, `variant` and `reason` are empty where nobody answered.

    `parse_ms` is part of `latency_ms`; `queue_rows` is what waited at the teacher when it was last heard of.
    """

    request_id: str
    model: str
    release: str
    variant: str
    reason: str
    protocol: str
    status: int
    rows: int
    latency_ms: float
    parse_ms: float = 0.0
    queue_rows: int = 0


class RequestIds:
    """The id of a request: its own where it brings one that is fit to print, else one that no other replica makes."""

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count()

    def __call__(self, headers: Mapping[str, str]) -> str:
        """The names of `headers` are in lower case."""
        given = headers.get(REQUEST_ID)
        if given and len(given) <= MAX_ID_LENGTH and given.isascii() and given.isprintable():
            return given
        return f"{self._prefix}-{next(self._numbers):x}"


class RequestLog(Protocol):
    def write(self, entry: Entry) -> None: ...

    def close(self) -> None: ...


class NoRequestLog:
    """Writes nothing."""

    def write(self, entry: Entry) -> None:
        return

    def close(self) -> None:
        return


class FileRequestLog:
    """Lines in `path`; `draw` is there for tests."""

    def __init__(
        self,
        path: Path,
        sample_ratio: float = 1.0,
        max_bytes: int = 100_000_000,
        draw: Callable[[], float] = random.random,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = RotatingFileHandler(path, maxBytes=max_bytes, backupCount=1, delay=True)
        self._sample_ratio = sample_ratio
        self._draw = draw
        self._waiting: deque[tuple[float, Entry]] = deque()
        self._lost = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def write(self, entry: Entry) -> None:
        if entry.status < 400 and self._sample_ratio < 1 and self._draw() >= self._sample_ratio:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
            return
        self._waiting.append((time.time(), entry))

    def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        self._thread.join(timeout=5.0)
        self._file.close()

    def _work(self) -> None:
        while not self._closing.wait(_FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = []
        for i in range(len(self._waiting)):
            lines.append(_line(*self._waiting.popleft()))
            if i % _LINES_A_TURN == 0:
                time.sleep(0)
        lost, self._lost = self._lost, 0
        if lost:
            lines.append(orjson.dumps({"lost_lines": lost}))
        if lines:
            block = b"\n".join(lines).decode()
            self._file.emit(logging.LogRecord("requests", logging.INFO, "", 0, block, None, None))


def _line(unix_s: float, entry: Entry) -> bytes:
    return orjson.dumps(
        {
            "time": datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds"),
            "request_id": entry.request_id,
            "model": entry.model,
            "release": entry.release,
            "variant": entry.variant,
            "reason": entry.reason,
            "protocol": entry.protocol,
            "status": entry.status,
            "rows": entry.rows,
            "latency_ms": round(entry.latency_ms, 3),
            "parse_ms": round(entry.parse_ms, 3),
            "queue_rows": entry.queue_rows,
        }
    )


def open_request_log(args: RequestLogArgs | None, replica: str) -> RequestLog:
    """The log of one replica; raises ValueError where no folder is given and Ray Serve has none."""
    if args is None:
        return NoRequestLog()
    folder = Path(args.folder).expanduser() if args.folder else serve_log_folder()
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in replica)
    return FileRequestLog(folder / f"tandem_requests_{name}.jsonl", args.sample_ratio, args.max_bytes)


def serve_log_folder() -> Path:
    """Where this replica's own log lies: its handler knows, through a buffer or not."""
    for handler in logging.getLogger("ray.serve").handlers:
        held = getattr(handler, "target", None) or handler
        if isinstance(held, logging.FileHandler):
            return Path(held.baseFilename).parent
    raise ValueError("access_log has no folder and Ray Serve writes no log file here: set access_log.folder")
