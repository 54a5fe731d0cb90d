"""The plot that is the cascade study's own: the curve on the report rows, and the point that was chosen beforehand."""

from typing import TYPE_CHECKING

from optimization.benchmark.cascade_study import Chosen, Reported
from optimization.benchmark.cascade_times import Roles
from optimization.cascade.plots import INK, arms
from training.evaluation.plots import FIRST, MUTED, SECOND, WORST, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Deferring more than this costs nearly as much as the teacher alone: nothing is to be seen there.
MOST_DEFERRED = 0.4


def draw_curve(reported: Reported, chosen: Chosen, roles: Roles) -> "Figure":
    """Accuracy and harm of the pair on the report rows by deferral, with the point that was chosen beforehand."""
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(8.4, 6.4)
    accuracy, harm = figure.subplots(2, 1, sharex=True)
    points = [point for point in reported.curve if point.deferral <= MOST_DEFERRED]
    deferral = [point.deferral for point in points]
    score, singles = reported.score, reported.accuracies
    accuracy.plot(deferral, [point.accuracy for point in points], color=FIRST, linewidth=2, label="pair")
    accuracy.axhline(singles[roles.best], color=MUTED, linestyle="--", linewidth=1.2, label=f"{roles.best} alone")
    accuracy.axhline(singles[roles.student], color=MUTED, linestyle=":", linewidth=1.6, label=f"{roles.student} alone")
    harm.plot(deferral, [point.harm for point in points], color=SECOND, linewidth=2, label="rows harmed")
    bound = chosen.max_harm
    harm.axhline(bound, color=WORST, linestyle="--", linewidth=1.2, label=f"bound, {bound:.2%}")
    for axes, value, interval in (
        (accuracy, score.accuracy, score.accuracy_interval),
        (harm, score.harm, score.harm_interval),
    ):
        axes.errorbar(
            [score.deferral],
            [value],
            xerr=arms(score.deferral, score.deferral_interval),
            yerr=arms(value, interval),
            color=INK,
            marker="o",
            markersize=6,
            linewidth=1.2,
            capsize=3,
            zorder=5,
            label=f"chosen beforehand: {value:.2%},\n{score.deferral:.1%} deferred (95 % intervals)",
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    plain(accuracy, f"{roles.student} before {roles.teacher}: accuracy", y_label="accuracy")
    plain(harm, "Harm", "rows deferred to the teacher", "share of rows")
    harm.set_xlim(0, MOST_DEFERRED)
    harm.set_ylim(0, None)
    for axes in (accuracy, harm):
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    return figure
