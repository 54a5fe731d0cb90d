"""A comparison as a table on a terminal, from the JSON that a build logged; free of heavy imports."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def comparison_table(release: str, comparison: Mapping[str, Any]) -> Table:
    """One row a variant; the caption says what they do in tandem, on how many samples, and on what host."""
    pair, host = comparison["pair"], comparison["host"]
    table = Table(
        title=f"{release}, as its build measured it",
        title_justify="left",
        caption=(
            f"In tandem: accuracy {pair['accuracy']:.2%}, the teacher answers {pair['deferral']:.1%}.\n"
            f"Report split, {comparison['report_rows']} samples; latency of one sample, {host['threads']} thread of "
            f"{host['cpu']}."
        ),
        caption_justify="left",
    )
    table.add_column("variant")
    for heading in ("accuracy", "size", "p50 ms", "p95 ms", "speed-up"):
        table.add_column(heading, justify="right")
    for row in comparison["rows"]:
        table.add_row(
            row["variant"],
            f"{row['accuracy']:.2%}",
            size_text(row["size_bytes"]),
            f"{row['p50_ms']:.3f}",
            f"{row['p95_ms']:.3f}",
            f"{row['speedup']:.1f}x",
        )
    return table


def size_text(size_bytes: int) -> str:
    """A size for a reader, in decimal kilobytes or megabytes."""
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.3g} kB"
