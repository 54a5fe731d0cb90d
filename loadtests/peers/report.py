"""The report of a comparison: Markdown and a plot, from Results alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.peers.catalog import KINDS, PEERS, Peer
from loadtests.peers.results import Results, Spread

OURS = "tandem"
_BEST_CONNECTIONS = 64


def write_report(results: Results, folder: Path, name: str) -> list[Path]:
    """`name`.md and `name`.png in `folder`."""
    text, plot = folder / f"{name}.md", folder / f"{name}.png"
    draw(results, plot)
    text.write_text(markdown(results, plot.name))
    return [text, plot]


def markdown(results: Results, plot: str) -> str:
    about = results.about
    parts = [
        "# Tandem beside other servers",
        "The same ONNX file, the same cores, the same client; one server at a time, in turns.",
        f"![Requests a second by server]({plot})",
        *_findings(results),
        *[section for kind in about["plan"]["kinds"] for section in _kind_section(results, kind)],
        *_cpu_section(results),
        *_conditions(results),
    ]
    return "\n\n".join(parts) + "\n"


def _findings(results: Results) -> list[str]:
    """Ratios of medians, each a line; empty where Tandem was not measured."""
    ours = results.rate(OURS, "image", _BEST_CONNECTIONS)
    if ours is None:
        return []
    lines = []
    for peer in PEERS:
        other = results.rate(peer.name, "image", _BEST_CONNECTIONS)
        if peer.name == OURS or other is None:
            continue
        lines.append(f"| {peer.title} | {ours.median:,.0f} / {other.median:,.0f} | {ours.median / other.median:.2f} |")
    head = f"| Tandem against, one image, {_BEST_CONNECTIONS} connections | requests/s | ratio |\n|---|---|---|\n"
    found = [head + "\n".join(lines)]
    best, ceiling = results.best_connections(OURS, "batch"), results.ceiling("batch")
    if best is not None and ceiling is not None and (batch := results.rate(OURS, "batch", best)):
        images = 32 * batch.median
        found.append(
            f"Requests of 32 images: {images:,.0f} images/s at {best} connections, {images / ceiling.median:.0%} of "
            f"the {ceiling.median:,.0f} that ONNX Runtime makes with nothing round it."
        )
    empty = results.p50_ms(OURS, "image", 1), results.p50_ms("ray-echo", "image", 1)
    if empty[0] is not None and empty[1] is not None:
        found.append(
            f"One connection: p50 {empty[0].median:.2f} ms, {empty[0].median - empty[1].median:.2f} ms more than the "
            f"bare echo's {empty[1].median:.2f} ms under the same flags, model included."
        )
    return ["## In short", *found]


def _kind_section(results: Results, kind: str) -> list[str]:
    counts = results.about["plan"]["connections"]
    rows = []
    for peer in _ranked(results, kind):
        cells = [_cell(results.rate(peer.name, kind, count)) for count in counts]
        latencies = [
            f"{_short(results.p50_ms(peer.name, kind, count))} / {_short(results.p99_ms(peer.name, kind, count))}"
            for count in counts
        ]
        rows.append([peer.title, *cells, *latencies, _failed(results, peer, kind)])
    if not rows:
        return []
    head = [
        "server",
        *[f"requests/s, c={count}" for count in counts],
        *[f"p50 / p99 ms, c={count}" for count in counts],
    ]
    ceiling = results.ceiling(kind)
    note = "Medians over rounds, smallest and largest in brackets; c is the number of connections, in a closed loop."
    if ceiling is not None:
        note += (
            f" ONNX Runtime alone, one thread, batches of {KINDS[kind].rows}: {_cell(ceiling)} images/s"
            f" = {ceiling.median / KINDS[kind].rows:,.0f} such requests/s."
        )
    return [f"## {KINDS[kind].title[0].upper()}{KINDS[kind].title[1:]}", note, _table([*head, "failed"], rows)]


def _cpu_section(results: Results) -> list[str]:
    """Where the time of a request goes: CPU by process."""
    rows = []
    for peer in _ranked(results, "image"):
        parts = results.cpu_us(peer.name, "image", _BEST_CONNECTIONS)
        if parts:
            named = ", ".join(f"{part} {us:,.0f}" for part, us in parts.items() if us >= 1)
            rows.append([peer.title, f"{sum(parts.values()):,.0f}", named])
    if not rows:
        return []
    note = (
        f"CPU microseconds a request at {_BEST_CONNECTIONS} connections, by process, the client's too; "
        "two cores have 2,000,000 a second to give."
    )
    return ["## What a request costs", note, _table(["server", "sum", "of which"], rows)]


def _conditions(results: Results) -> list[str]:
    about = results.about
    machine = about["machine"]
    measured = [peer for peer in PEERS if any(sample.server == peer.name for sample in results.samples)]
    rows = [
        [
            peer.title,
            "; ".join(
                dict.fromkeys(wire.described for kind, wire in peer.wires.items() if kind in about["plan"]["kinds"])
            ),
            peer.settings,
            ", ".join(f"{name} {number}" for name, number in about["versions"].get(peer.name, {}).items()),
        ]
        for peer in measured
    ]
    others = results.others_share()
    quiet = ""
    if others is not None:
        quiet = (
            f"Other processes of the machine took {others.median:.0%} of the cores' time in the median measurement and "
            f"{others.high:.0%} in the worst: above a few percent, run it again on a quiet machine.\n\n"
        )
    left_out = [f"- {name}: not measured. {reason.strip()}" for name, reason in results.skipped.items()]
    plan = about["plan"]
    return [
        "## Conditions",
        f"{machine['cpu']}, {machine['cores_used']} of {machine['cores']} cores for server and client together, "
        f"{machine['system']}, Python {machine['python']}. Client: {about['client']}. {plan['seconds']:g} s a "
        f"measurement after {plan['warmup_s']:g} s of warm-up, {about['rounds']} rounds, every server started anew in "
        f"each. Model: sha256 {about['model_sha256'][:16]}, made by `loadtests/peers/model.py`. Before each "
        "measurement the classes in the answers were compared with ONNX Runtime's. OMP_NUM_THREADS=1, one ONNX Runtime "
        "thread, one worker each.",
        _table(["server", "requests", "settings", "versions"], rows),
        *(["\n".join(left_out)] if left_out else []),
        f"{quiet}Started {about['started_at']} with `{about['command']}`.",
    ]


def _shown(results: Results, peer: Peer, kind: str) -> int | None:
    """The connections whose figure stands for `peer`: the most for single images, its own best for large requests.

    A server that sheds what it cannot queue spends a closed loop of many large requests on refusals.
    """
    if KINDS[kind].rows > 1:
        return results.best_connections(peer.name, kind)
    return int(max(results.about["plan"]["connections"]))


def _ranked(results: Results, kind: str) -> list[Peer]:
    """Peers that were measured, fastest first."""
    measured = []
    for peer in PEERS:
        connections = _shown(results, peer, kind)
        spread = None if connections is None else results.rate(peer.name, kind, connections)
        if spread is not None:
            measured.append((spread.median, peer))
    return [peer for _, peer in sorted(measured, key=lambda item: -item[0])]


def _failed(results: Results, peer: Peer, kind: str) -> str:
    return str(sum(s.load.failed for s in results.samples if s.server == peer.name and s.kind == kind and s.load))


def _cell(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:,.0f} ({spread.low:,.0f} - {spread.high:,.0f})"


def _short(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def draw(results: Results, path: Path) -> None:
    """One panel a kind: bars are medians, dots are rounds, the line is ONNX Runtime alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = [kind for kind in results.about["plan"]["kinds"] if _ranked(results, kind)]
    ranked = {kind: _ranked(results, kind) for kind in kinds}
    heights = [max(2, len(ranked[kind])) + 1 for kind in kinds] or [2]
    figure, panels = plt.subplots(
        len(heights), 1, figsize=(9, 0.42 * sum(heights) + 1.2), squeeze=False, height_ratios=heights
    )
    for panel, kind in zip(panels[:, 0], kinds, strict=False):
        _draw_kind(panel, results, kind, ranked[kind])
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_kind(panel: Any, results: Results, kind: str, ranked: Sequence[Peer]) -> None:
    rows = KINDS[kind].rows
    for place, peer in enumerate(reversed(ranked)):
        shown = _shown(results, peer, kind) or 0
        found = [rows * sample.load.requests_per_s for sample in results.of(peer.name, kind, shown) if sample.load]
        median = Spread.of(found).median
        colour = "#1f6f8b" if peer.name == OURS else "#c9b458" if not peer.has_model else "#b0b7bd"
        panel.barh(place, median, color=colour, height=0.7)
        panel.plot(found, [place] * len(found), "o", color="#222222", markersize=3)
        panel.annotate(
            f"{median:,.0f}", (max(found), place), (5, 0), textcoords="offset points", va="center", fontsize=8
        )
    panel.set_yticks(range(len(ranked)), [peer.title for peer in reversed(ranked)], fontsize=9)
    ceiling = results.ceiling(kind)
    if ceiling is not None:
        best = results.ceiling("batch") or ceiling
        panel.axvline(best.median, color="#a23b3b", linestyle="--", linewidth=1)
        panel.annotate(
            "ONNX Runtime alone",
            (best.median, 0.02),
            (-4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color="#a23b3b",
        )
    panel.set_xlim(right=1.1 * max(panel.get_xlim()[1], 1))
    top = max(results.about["plan"]["connections"])
    where = f"{top} connections" if rows == 1 else "each at its best"
    panel.set_title(f"Images a second, {KINDS[kind].title}, {where}", fontsize=10, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
