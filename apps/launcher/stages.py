"""Stages of a long command on the terminal: a spinner with elapsed time, or plain lines in a log."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from apps.launcher.process import Process

_POLL_S = 0.2
_NOTE_CHARS = 70
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Ray marks a worker's lines with its class and process id.
_WORKER = re.compile(r"^\(\w+ pid=\d+\) ")
# What libraries say of themselves, not of the work.
_CHATTER = re.compile(r"INFO |WARNING |Checkpoint\(filesystem|HTTP Request|^\W*$|\(TrainController ")


def newest_line(text: str) -> str:
    """The last line of a log that says how far the work is, or nothing."""
    lines = (_COLOUR.sub("", line).strip() for line in reversed(text.splitlines()))
    return next((_WORKER.sub("", line) for line in lines if not _CHATTER.search(line)), "")


@dataclass
class Stage:
    """What one running stage says of itself; `note` may be called as often as one likes."""

    title: str
    console: Console
    progress: Progress | None
    note_every_s: float
    _noted_at: float = field(default_factory=time.monotonic)
    _last: str = ""

    def note(self, text: str) -> None:
        """Show the newest line of output: at once on a terminal, every `note_every_s` in a log."""
        line = " ".join(text.split())
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], note=escape(line[:_NOTE_CHARS]))
        elif line and line != self._last and time.monotonic() - self._noted_at >= self.note_every_s:
            self._noted_at, self._last = time.monotonic(), line
            self.console.print(f"  {self.title}: {line[:200]}", markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Stages:
    """Runs the stages of one command, one at a time."""

    console: Console
    note_every_s: float = 10.0

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Show `title` while the block runs, and how long it took; an error inside is marked and passes through."""
        started = time.monotonic()
        try:
            if self.console.is_terminal:
                columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
                note = TextColumn("[dim]{task.fields[note]}")
                with Progress(*columns, note, console=self.console, transient=True) as progress:
                    progress.add_task(escape(title), total=None, note="")
                    yield Stage(title, self.console, progress, self.note_every_s)
            else:
                self.console.print(f"{title} ...", markup=False, highlight=False)
                yield Stage(title, self.console, None, self.note_every_s)
        except BaseException:
            self._close("[red]✗[/red]", title, started)
            raise
        self._close("[green]✓[/green]", title, started)

    def run(
        self,
        title: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log_path: Path,
        cwd: Path,
        check: bool = True,
    ) -> int:
        """Run `command` as one stage and return its exit status.

        Its output goes to `log_path`, the last line of it to the terminal. Raises ProcessError with the end of the
        log when it fails, unless `check` is false. Ends the command when interrupted.
        """
        process = Process(title, command, env=env, log_path=log_path, cwd=cwd)
        with self.stage(title) as stage:
            process.start()
            try:
                while (status := process.wait(_POLL_S)) is None:
                    stage.note(newest_line(process.tail(10)))
            finally:
                process.stop()
            if status and check:
                raise process.describe_failure(f"failed with status {status}")
        return status

    def _close(self, mark: str, title: str, started: float) -> None:
        self.console.print(f"{mark} {escape(title)} [dim]{time.monotonic() - started:.1f} s[/dim]", highlight=False)
