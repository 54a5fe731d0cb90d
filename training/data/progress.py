"""How far long work is: a bar on a terminal, a line every tenth of the way in a log."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Where the end is not known, a line says every so many units how much is done.
UNITS_A_LINE = 10


@contextmanager
def progress(name: str, total: int, unit: str, one: float) -> Iterator[Callable[[int], None]]:
    """Gives what is to be told how much is done of `total` (0: not known), counted in units of `one`: 1e6 for MB."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        count = TextColumn(
            f"{{task.completed:,.1f}} of {{task.total:,.1f}} {unit}" if total else f"{{task.completed:,.1f}} {unit}"
        )
        columns = TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=total / one if total else None)
            yield lambda done: bar.update(task, completed=done / one)
        return
    said = -1

    def say(done: int) -> None:
        nonlocal said
        tenth = done * 10 // total if total else int(done / one) // UNITS_A_LINE
        if tenth > said:
            said = tenth
            share = f" of {total / one:.1f}" if total else ""
            print(f"{name}: {done / one:.1f}{share} {unit}", file=sys.stderr, flush=True)

    yield say
