"""Worker: one thread that does one thing after another, cheaper to hand work to than an executor with its futures."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]


class Worker:
    """`work` must not raise. The thread is a daemon: it never keeps a process alive."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self.closed = False
        threading.Thread(target=_labour, args=(self._work,), name=name, daemon=True).start()

    def do(self, work: Work) -> None:
        self._work.put(work)

    def close(self) -> None:
        """Let the thread end after the work at hand."""
        self.closed = True
        self._work.put(None)


def _labour(queue: "SimpleQueue[Work | None]") -> None:
    while (work := queue.get()) is not None:
        work()
        # Else the last work, and all that it refers to, would live until the next one comes.
        del work
