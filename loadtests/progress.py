"""Progress of a run: a bar on a terminal, plain lines in a log."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from loadtests.open_loop import Plan, Progress
from loadtests.summary import quantile

LINE_EVERY_S = 5.0


@contextmanager
def showing(plan: Plan, stream: TextIO | None = None) -> Iterator[Callable[[Progress], None]]:
    """A callback that shows how a run of `plan` stands on `stream` (standard error by default)."""
    stream = stream or sys.stderr
    if stream.isatty():
        with _bar(plan, stream) as show:
            yield show
    else:
        yield _lines(plan, stream)


@contextmanager
def _bar(plan: Plan, stream: TextIO) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[phase]}"),
        BarColumn(20),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task("", total=plan.warmup_s + plan.duration_s, phase="warm-up")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=plan.warmup_s + progress.elapsed_s,
                description=_words(progress),
                phase="warm-up" if progress.elapsed_s < 0 else "measuring",
            )

        yield show


def _lines(plan: Plan, stream: TextIO) -> Callable[[Progress], None]:
    next_s = 0.0

    def show(progress: Progress) -> None:
        nonlocal next_s
        if progress.elapsed_s >= next_s:
            next_s = progress.elapsed_s + LINE_EVERY_S
            print(f"{progress.elapsed_s:.0f} of {plan.duration_s:g} s: {_words(progress)}", file=stream, flush=True)

    return show


def _words(progress: Progress) -> str:
    recent = f", recent p95 {quantile(progress.recent_ms, 0.95):.1f} ms" if progress.recent_ms else ""
    return f"{progress.sent:,} sent, {progress.in_flight} in flight, {progress.failed:,} failed{recent}"
