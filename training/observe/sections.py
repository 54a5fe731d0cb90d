"""What a training's report says of the training itself: where its time went, and what befell it."""

import datetime
from collections.abc import Sequence

from training.checkpoint.ledger import Recovery
from training.evaluation.page import section, table_html, text_html
from training.observe.breakdown import Breakdown
from training.observe.clock import PHASES


def time_section(breakdown: Breakdown) -> str:
    """The verdict, and each phase's share of the steps' time."""
    rows = [
        [phase, f"{breakdown.seconds.get(phase, 0.0):,.1f} s", f"{breakdown.share(phase):.1%}"]
        for phase in PHASES
        if phase != "validation"
    ]
    validation = f"Validation took {breakdown.seconds.get('validation', 0.0):,.1f} s beside the steps."
    body = text_html(breakdown.verdict()) + table_html(["Phase", "Time", "Share of the steps"], rows)
    return section("Where the time went", body + text_html(validation))


def recovery_section(recoveries: Sequence[Recovery]) -> str:
    """Each start after the first: why, and what it cost."""
    if not recoveries:
        return section("What befell it", text_html("Nothing: it was trained in one go."))
    rows = [
        [
            datetime.datetime.fromtimestamp(one.at).strftime("%Y-%m-%d %H:%M:%S"),
            one.cause,
            f"epoch {one.epoch}, step {one.step}",
            str(one.world_size),
            "not known" if one.steps_redone is None else str(one.steps_redone),
            "not known" if one.seconds_to_next_step is None else f"{one.seconds_to_next_step:.1f} s",
            "; ".join(one.rejected.values()) or "none",
        ]
        for one in recoveries
    ]
    header = ["Started again", "Because", "Went on at", "Workers", "Steps redone", "From step to step", "Passed over"]
    return section("What befell it", table_html(header, rows, text=True))
