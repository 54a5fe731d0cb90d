"""Report: what a sweep found, as a table, plots, one HTML page, and the settings of its best trial."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from training.evaluation.page import facts_html, figure_html, page, section, table_html
from training.registry import Run
from training.tuning import plots
from training.tuning.ledger import Trial, ranked
from training.tuning.logbook import brief
from training.tuning.method import Method
from training.tuning.space import Space, settings
from training.tuning.study import FEWEST_TRIALS, importances

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "progress": "Left: every trial's val accuracy after each epoch, the best in orange. Right: what each trial's best "
    "epoch reached, and the best so far in the order in which trials were begun.",
    "parallel": "Each line is a trial, from the values it tried to the val accuracy that it reached. Lines that cross "
    "an axis at one height and part on the last say that this field mattered little.",
    "importance": "The share of the variance of val accuracy that a field explains alone (fANOVA on random forests). "
    "Trials that were stopped early count with what they had reached, so a field that slows a start seems to matter "
    "more than it does; what fields do together is in no bar; and of few trials this is a hint at most.",
    "schedules": "What each trial trained with at each epoch, the best in orange. A population finds a schedule, not a "
    "point: trained anew by the best trial's last values, a model may do worse than the best trial did.",
}
ROWS = 200  # of the table; beyond, the file trials.json has all


def publish(name: str, method: Method, space: Space, trials: Sequence[Trial], best: Trial, run: Run) -> None:
    """Log table, plots and page to `run`, and the best point as `--set` options."""
    figures = draw(method, space, trials, best)
    run.log_figures(figures)
    run.log_text(html(name, method, space, trials, best, figures), "sweep.html")
    run.log_text(json.dumps([asdict(trial) for trial in trials], indent=1), "trials.json")
    run.log_text(set_options(best) + "\n", "best.txt")
    run.set_tags({"tandem.best": set_options(best)[:5000], "tandem.best_run": best.run_id})


def set_options(trial: Trial) -> str:
    """The trial's point as options of `training.train`."""
    return " ".join(f"--set {setting}" for setting in settings(trial.point))


def draw(method: Method, space: Space, trials: Sequence[Trial], best: Trial) -> dict[str, "Figure"]:
    figures = {"progress": plots.progress(trials, best), "parallel": plots.parallel_coordinates(space, trials, best)}
    if method.name == "pbt":
        if any(one.kind != "choice" for one in space.ranges):
            figures["schedules"] = plots.schedules(space, trials, best)
        return figures
    shares = importances(space, trials)
    if shares:
        figures["importance"] = plots.importance(shares, sum(bool(trial.scores) for trial in trials))
    return figures


def html(
    name: str, method: Method, space: Space, trials: Sequence[Trial], best: Trial, figures: dict[str, "Figure"]
) -> str:
    counts = {status: sum(trial.status == status for trial in trials) for status in ("finished", "stopped", "failed")}
    epochs = sum(len(trial.scores) for trial in trials)
    tiles = {
        "Best val accuracy": f"{best.accuracy:.2%}",
        "By trial": str(best.number),
        "Trials": str(len(trials)),
        "Epochs trained": str(epochs),
    }
    facts = {
        "search": method.name,
        "varied": ", ".join(space.fields),
        "best": set_options(best),
        "ended": ", ".join(f"{count} {status}" for status, count in counts.items() if count),
        "read": "the val split alone",
    }
    sections = [section("The sweep", facts_html(facts))]
    sections += [section("", figure_html(figure, CAPTIONS[key])) for key, figure in figures.items()]
    if "importance" not in figures and method.name != "pbt":
        why = f"<p>Which fields mattered cannot be told: it takes {FEWEST_TRIALS} trials that did differently well.</p>"
        sections.append(section("What mattered", why))
    sections.append(section("Trials, the best first", table_html(*table(trials))))
    failed = [trial for trial in trials if trial.error]
    if failed:
        rows = [(str(trial.number), brief(trial.point), trial.error[:300]) for trial in failed]
        sections.append(section("Failures", table_html(("Trial", "Point", "Error"), rows, text=True)))
    return page(f"Sweep {name}", tiles, sections)


def table(trials: Sequence[Trial]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows, the best first and the failed last."""
    ordered = ranked(trials)
    fields = list(ordered[0].point)
    rows = [
        (
            str(trial.number),
            f"{trial.accuracy:.2%}" if trial.scores else "",
            str(trial.best.epoch) if trial.best else "",
            trial.status,
            *(_say(trial, field) for field in fields),
        )
        for trial in ordered[:ROWS]
    ]
    return ("Trial", "Val accuracy", "Best epoch", "Ended", *fields), rows


def _say(trial: Trial, field: str) -> str:
    value = trial.point[field]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
