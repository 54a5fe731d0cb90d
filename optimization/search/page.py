"""Page: a search as one HTML file: the front to look at from three sides, all candidates, and what was chosen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimization.measure.host import Host, Load
from optimization.measure.measurement import Measurement
from optimization.search.book import Result
from optimization.search.choice import Candidate, Choice, Wish
from optimization.search.pareto import front
from optimization.search.pipeline import Pipeline
from optimization.table import size_text
from training.evaluation.page import facts_html, page, points_html, section, table_html, text_html

PLOT = Path(__file__).with_name("plot.html")


@dataclass(frozen=True)
class Findings:
    """All that a search found out, for its page and its table. `dropped` are results of the rungs before the last."""

    title: str
    wish: Wish
    teacher: Candidate
    candidates: Sequence[Candidate]
    choice: Choice
    pipelines: Mapping[int, Pipeline]
    failed: Mapping[int, str]
    dropped: Mapping[int, tuple[int, Result]]  # number -> the rung after which it was given up, and its result there
    host: Host
    load: Load
    seconds: float
    versions: Mapping[int, str] = field(default_factory=dict)
    releases: Mapping[int, str] = field(default_factory=dict)
    alone: Mapping[int, Measurement] = field(default_factory=dict)  # of the front, each in a process of its own
    report: Mapping[str, Measurement] = field(default_factory=dict)  # of the teacher and the chosen one, report split

    @property
    def front(self) -> list[Candidate]:
        by_number = {one.number: one for one in self.candidates}
        return [by_number[point.number] for point in front([one.point(self.wish.objective) for one in self.candidates])]

    @property
    def chosen(self) -> Candidate | None:
        return next((one for one in self.candidates if one.number == self.choice.number), None)

    @property
    def servable(self) -> list[Candidate]:
        """The front, and the chosen one, which may lie beside it by p95 or among equals."""
        chosen = self.chosen
        return [*self.front, *([chosen] if chosen is not None and chosen not in self.front else [])]

    def to_json(self) -> dict[str, Any]:
        on_front = {one.number for one in self.front}
        return {
            "title": self.title,
            "chosen": self.choice.number,
            "reason": self.choice.reason,
            "seconds": self.seconds,
            "host": self.host.to_json(),
            "points": [_point(one, self, one.number in on_front) for one in self.candidates],
            "failed": dict(self.failed),
            "dropped": {
                number: {"pipeline": self.pipelines[number].to_json(), "after_rung": rung,
                         "accuracy": result.made.accuracy if result.made else None}
                for number, (rung, result) in self.dropped.items()
            },
        }  # fmt: skip


def _point(one: Candidate, found: Findings, on_front: bool) -> dict[str, Any]:
    faster = one.speedup_over(found.teacher)
    return {
        "number": one.number,
        "label": one.pipeline.label,
        "pipeline": one.pipeline.to_json(),
        "accuracy": one.made.accuracy,
        "size_bytes": one.made.size_bytes,
        "p50_ms": one.latency.at(1).p50_ms,
        "p95_ms": one.latency.at(1).p95_ms,
        "spread_ms": one.latency.at(1).spread_ms,
        "rows_per_s": one.rows_per_s,
        "speedup": [faster.ratio, faster.lower, faster.upper],
        "latency": one.latency.to_json(),
        "front": on_front,
        "chosen": one.number == found.choice.number,
        "version": found.versions.get(one.number, ""),
        "release": found.releases.get(one.number, ""),
        "made": list(one.made.stages),
        "reused": list(one.made.reused),
        "seconds": one.made.seconds,
    }


def search_page(found: Findings) -> str:
    """One HTML page that needs no other file and no network; its script draws the front."""
    chosen, teacher = found.chosen, found.teacher
    tiles = {
        "Pipelines": f"{len(found.pipelines)}",
        "Carried to the end": f"{len(found.candidates)}",
        "On the front": f"{len(found.front)}",
        "Took": f"{found.seconds / 60:.1f} min",
    }
    if chosen is not None:
        tiles |= {
            "Accuracy": f"{chosen.made.accuracy:.2%}",
            "Throughput": f"{chosen.rows_per_s / teacher.rows_per_s:.2f}x",
            "Size": f"{teacher.made.size_bytes / chosen.made.size_bytes:.2f}x smaller",
        }
    sections = [
        section("Accuracy against time and size", _plot_html(found)),
        section("The front", _table(found, found.front)),
        section("What was asked for", _asked(found)),
    ]
    if found.report:
        sections.append(section("On rows that nothing was chosen by", _report(found)))
    others = [one for one in found.candidates if one not in found.front]
    if others:
        sections.append(section("Beaten by a point of the front in everything", _table(found, others)))
    given_up = _given_up(found)
    if given_up:
        sections.append(section("Not carried to the end", given_up))
    host = found.host
    facts = {
        "CPU": host.cpu,
        "Threads": str(host.threads),
        "Load meanwhile": str(found.load),
        "Rows": f"{teacher.made.rows:,} of the gate split",
        "Teacher": "is the float graph of the model that the search began with",
    }
    return page(found.title, tiles, [*sections, section("How it was measured", facts_html(facts))], found.choice.reason)


def _plot_html(found: Findings) -> str:
    """The interactive plot: a script beside the data, which may close no element of the page."""
    data = json.dumps(found.to_json()["points"]).replace("<", "\\u003c")
    return PLOT.read_text().replace("/*POINTS*/[]", data)


def _table(found: Findings, candidates: Sequence[Candidate]) -> str:
    header = ("Pipeline", "Accuracy", "Points", "p50 ms", "p95 ms", "Rows/s", "Speed-up", "Size", "Alone p95 ms",
              "Version", "Release")  # fmt: skip
    rows = []
    for one in candidates:
        faster = one.speedup_over(found.teacher)
        shown = f"{faster.ratio:.2f}x" if faster.is_faster or faster.is_slower else "none shown"
        alone = found.alone.get(one.number)
        rows.append(
            (
                ("→ " if one.number == found.choice.number else "") + one.pipeline.label,
                f"{one.made.accuracy:.2%}",
                f"{100 * (one.made.accuracy - found.teacher.made.accuracy):+.2f}",
                f"{one.latency.at(1).p50_ms:.3f}",
                f"{one.latency.at(1).p95_ms:.3f}",
                f"{one.rows_per_s:,.0f}",
                "1" if one is found.teacher else shown,
                size_text(one.made.size_bytes),
                f"{alone.footprint.answer_ms[0][1]:.3f}" if alone and alone.footprint.answer_ms else "",
                found.versions.get(one.number, ""),
                found.releases.get(one.number, ""),
            )
        )
    return table_html(header, rows) + text_html(
        "p50, p95 and speed-up are of one row, all candidates in turns in one process; rows/s of the best batch size. "
        "Alone: of one row, in a process of its own with the threads of the deployment."
    )


def _asked(found: Findings) -> str:
    wish, choice = found.wish, found.choice
    asked: dict[str, str] = {"Objective": wish.objective}
    if wish.max_accuracy_drop is not None:
        asked["Accuracy"] = f"at most {100 * wish.max_accuracy_drop:g} points lost, at 95 % confidence"
    if wish.max_p95_ms is not None:
        asked["p95 of one row"] = f"at most {wish.max_p95_ms:g} ms"
    if wish.max_size_bytes is not None:
        asked["Size"] = f"at most {size_text(wish.max_size_bytes)}"
    said = [facts_html(asked)]
    if choice.number is not None:
        said.append(points_html("Chosen", [check.sentence for check in choice.checks[choice.number]] or ["no limits"]))
    return "".join(said)


def _report(found: Findings) -> str:
    rows = [
        (
            name,
            f"{one.accuracy:.2%}",
            f"{one.accuracy_interval[0]:.2%} to {one.accuracy_interval[1]:.2%}",
            *(f"{batch.p50_ms:.3f} / {batch.p95_ms:.3f}" for batch in one.latency.batches),
        )
        for name, one in found.report.items()
    ]
    first = next(iter(found.report.values()))
    sizes = [f"p50 / p95 ms, {batch.batch_size}" for batch in first.latency.batches]
    return table_html(("", "Accuracy", "95 % interval", *sizes), rows) + text_html(
        f"{first.rows:,} rows of the report split, read once the choice was made. A choice among many flatters the "
        "chosen one on the rows that it was chosen by."
    )


def _given_up(found: Findings) -> str:
    said = [
        f"{found.pipelines[number].label}: {result.made.accuracy:.2%} after rung {rung}"
        for number, (rung, result) in found.dropped.items()
        if result.made is not None
    ]
    parts = [points_html("Given up after a shorter training: others were better in everything", said)] if said else []
    reasons = [f"{found.pipelines[number].label}: {reason}" for number, reason in found.failed.items()]
    if reasons:
        parts.append(points_html("Could not be carried out", reasons))
    return "".join(parts)
