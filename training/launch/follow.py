"""Follow a training whose workers have no terminal: the bar is drawn where the command has one."""

import contextlib
import sys
import threading
from collections.abc import Iterator

from training.launch.run_folder import RunFolder
from training.observe.bar import SHOWN_EVERY_S, Bar


def can_follow(folder: RunFolder) -> bool:
    """Whether there is a terminal, and workers can say twice a second how far they are, on whichever node they run:
    not through an object store. Where it is not so, the epochs' lines say enough.
    """
    return sys.stdout.isatty() and folder.local_path is not None


@contextlib.contextmanager
def followed(folder: RunFolder) -> Iterator[None]:
    """Within it what the first worker reports in `folder` is drawn as a bar, below the lines printed meanwhile."""
    from tqdm.contrib import DummyTqdmFile

    bar, over, earlier = Bar(sys.stdout), threading.Event(), folder.progress()

    def follow() -> None:
        shown = earlier
        while not over.wait(SHOWN_EVERY_S):
            progress = folder.progress()
            if progress is not None and progress != shown:
                bar.show(progress)
                shown = progress

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    lines = DummyTqdmFile(sys.stdout)  # Ray prints what workers say from a thread of its own
    on_terminal = contextlib.redirect_stderr(lines) if sys.stderr.isatty() else contextlib.nullcontext()
    thread.start()
    try:
        with contextlib.redirect_stdout(lines), on_terminal:
            yield
    finally:
        over.set()
        thread.join()
        bar.close()
