"""Priority: how a training's processes give way to those that serve."""

import contextlib
import os
import sys
from pathlib import Path

from training.launch.job import GIVES_WAY

_THREADS = Path("/proc/self/task")


def give_way() -> None:
    """Make this whole process at least GIVES_WAY nice, the threads that it has begun before included.

    On Linux niceness is each thread's own. The threads that carry gradients, which Ray starts before the training,
    would else stand before those that compute: with all processors busy two workers trained some 5 % slower.
    """
    threads = [int(path.name) for path in _THREADS.iterdir()] if sys.platform.startswith("linux") else [0]
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, thread, max(GIVES_WAY, os.getpriority(os.PRIO_PROCESS, thread)))
