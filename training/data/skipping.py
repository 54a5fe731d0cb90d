"""Skipping: rows with a fault are counted, named and left out, up to a share of all that fails the run."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.data.published import DataError
from training.data.rows import FAULT_KINDS, Fault
from training.data.stage import Skipped, Staged

EXAMPLES = 3


class TooManySkippedError(DataError):
    """More of a source is unusable than may be; the message counts it by kind and names examples."""


def count_faults(skipped: Sequence[Skipped]) -> dict[str, int]:
    counts = Counter(item.fault.kind for item in skipped)
    return {kind: counts[kind] for kind in FAULT_KINDS if counts[kind]}


def tell_skipped(items: int, skipped: Sequence[Skipped]) -> str:
    """`3 of 1,000 items: 2 corrupt (a.png: ..., b.png: ...), 1 empty (c.png: ...)`."""
    told = []
    for kind, count in count_faults(skipped).items():
        named = [item for item in skipped if item.fault.kind == kind][:EXAMPLES]
        examples = "; ".join(f"{item.name}: {item.fault.reason}" for item in named)
        told.append(f"{count:,} {kind} ({examples}{'; ...' if count > len(named) else ''})")
    return f"{len(skipped):,} of {items:,} items: {', '.join(told)}"


def refuse_many(items: int, skipped: Sequence[Skipped], max_skipped: float, path: Path) -> None:
    """Raises TooManySkippedError where more than the share `max_skipped` is skipped; the file `path` then names all."""
    if len(skipped) > max_skipped * items:
        write_skipped(skipped, path)
        raise TooManySkippedError(
            f"{tell_skipped(items, skipped)}. At most {max_skipped:.2%} may be skipped (max_skipped): mend the source, "
            f"or allow more; {path} names every one"
        )


def check_skipped(items: int, counts: Mapping[str, int], max_skipped: float, path: Path) -> None:
    """As `refuse_many`, of a packed set, whose file `path` names what was skipped."""
    if sum(counts.values()) > max_skipped * items:
        told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        raise TooManySkippedError(
            f"{told} of {items:,} items were skipped when this source was packed. At most {max_skipped:.2%} may be "
            f"(max_skipped): mend the source, or allow more; {path} names every one"
        )


def name_faults(staged: Staged, faults: Mapping[int, Fault]) -> list[Skipped]:
    """Faults by row -> with the rows' names, in their order."""
    names = staged.names(faults)
    return [Skipped(names[row], faults[row]) for row in sorted(faults)]


def write_skipped(skipped: Sequence[Skipped], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "kind", "reason"])
        writer.writerows([item.name, item.fault.kind, item.fault.reason] for item in skipped)
