"""Exclusive: one measurement at a time on this machine, and none beside the work that a search does meanwhile.

Who reads a clock takes `exclusive`; who only computes, such as a stage of a search, holds `shared` while it does.
Any number may share, but nobody shares while one is exclusive, and who waits for `exclusive` lets no new one in. The
locks are files that the kernel frees when their holder dies. They keep apart the processes that ask; the load that
others make, a Measurement notes.
"""

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# The same for every process and user of the machine, whatever their TMPDIR says.
LOCK_FOLDER = Path("/tmp")
WAIT_S = 600.0
POLL_S = 0.1
# Who waits so long is told for whom.
SAY_AFTER_S = 2.0


class BusyError(ValueError):
    """The machine stayed busy for as long as one was willing to wait."""


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def exclusive(
    what: str, wait_s: float = WAIT_S, folder: Path = LOCK_FOLDER, say: Callable[[str], None] = _tell
) -> Iterator[None]:
    """Nobody else is in `exclusive` or `shared` on this machine while the block runs.

    `what` tells those who wait what they wait for. Raises BusyError after `wait_s`, and at once where this very process
    measures already and would wait for itself. Not to be asked for inside of one's own `shared`.
    """
    deadline = time.monotonic() + wait_s
    with _locked(folder / "tandem-turn.lock", deadline, what, say) as turn:
        _sign(turn, f"{os.getpid()} {what}")
        try:
            with _locked(folder / "tandem-busy.lock", deadline, what, say):
                yield
        finally:
            _sign(turn, "")


@contextlib.contextmanager
def shared(
    what: str, wait_s: float = WAIT_S, folder: Path = LOCK_FOLDER, say: Callable[[str], None] = _tell
) -> Iterator[None]:
    """Nobody is in `exclusive` on this machine while the block runs; raises BusyError after `wait_s`."""
    deadline = time.monotonic() + wait_s
    # The turn is held no longer than it takes to get in: who waits for it stands before those who come later.
    with contextlib.ExitStack() as stack:
        with _locked(folder / "tandem-turn.lock", deadline, what, say):
            stack.enter_context(_locked(folder / "tandem-busy.lock", deadline, what, say, fcntl.LOCK_SH))
        yield


@contextlib.contextmanager
def _locked(
    path: Path, deadline: float, what: str, say: Callable[[str], None], kind: int = fcntl.LOCK_EX
) -> Iterator[int]:
    descriptor = _open(path)
    try:
        _acquire(descriptor, kind, deadline, what, path, say)
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """For reading and writing, made where it is missing so that every user may; never through a link."""
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise BusyError(f"the lock {path} cannot be opened: {error}") from error
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return _open(path)  # made by another process meanwhile
    except OSError as error:
        raise BusyError(f"the lock {path} cannot be made: {error}") from error
    os.fchmod(descriptor, 0o666)  # a umask would shut other users out
    return descriptor


def _acquire(descriptor: int, kind: int, deadline: float, what: str, path: Path, say: Callable[[str], None]) -> None:
    began, said = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        holder = _holder(path)
        if holder is not None and holder[0] == os.getpid():
            raise BusyError(f"{what} waits for {holder[1]}, of this very process: do not measure inside a measurement")
        who = f"process {holder[0]}, {holder[1]}" if holder else "what computes now"
        if time.monotonic() >= deadline:
            raise BusyError(
                f"{what} has waited {time.monotonic() - began:.0f} s for {who}: end it, or come back when the machine "
                f"is free ({path})"
            )
        if not said and time.monotonic() - began >= SAY_AFTER_S:
            said = True
            say(f"{what} waits for {who}")
        time.sleep(POLL_S)


def _sign(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _holder(path: Path) -> tuple[int, str] | None:
    """The process that measures, and what, as it signed; None where nobody has."""
    try:
        number, _, what = path.read_text().partition(" ")
        return int(number), what
    except (OSError, ValueError):
        return None
