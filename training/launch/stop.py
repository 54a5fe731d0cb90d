"""How a training is asked to stop: a signal in this process, a file beside the checkpoints, a word from Ray."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

from training.loop.watcher import Watcher

ASK_EVERY_S = 1.0


class StopWhen(Watcher):
    """Stops the training when `asked` says so, which is asked once in ASK_EVERY_S."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked, self._next_at, self._answer = asked, 0.0, False

    def wants_stop(self) -> bool:
        now = time.monotonic()
        if now >= self._next_at:
            self._answer = self._answer or self._asked()
            self._next_at = now + ASK_EVERY_S
        return self._answer


@contextlib.contextmanager
def on_termination(act: Callable[[], None]) -> Iterator[None]:
    """Within it SIGTERM, which announces that a machine or job ends soon, calls `act` and ends nothing by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
