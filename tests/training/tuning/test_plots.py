import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.toys import image_recipe
from training.tuning import plots
from training.tuning.ledger import Exploit, Score, Trial, ranked
from training.tuning.method import Method
from training.tuning.report import draw, html, set_options, table
from training.tuning.space import Space, parse_space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANGES = ("optimizer.lr=log:1e-4..1e-1", "batch_size=choice:16,32,64", "schedule.warmup=lin:0..0.4", "epochs=int:4..9")


@pytest.fixture
def space() -> Space:
    return parse_space(image_recipe(), RANGES)


def made(space: Space, count: int) -> list[Trial]:
    generator = np.random.default_rng(0)
    trials = []
    for number in range(count):
        epochs = int(generator.integers(1, 9))
        top = float(generator.uniform(0.5, 0.97))
        scores = tuple(Score(e, 0.5, 0.6, top * (1 - 0.5**e), 1.0) for e in range(1, epochs + 1))
        status = "finished" if epochs > 5 else "stopped"
        trials.append(Trial(number, space.sample(0, number), f"run{number}", status, scores))  # type: ignore[arg-type]
    return trials


def best_of(trials: list[Trial]) -> Trial:
    return ranked(trials)[0]


def is_clipped(figure: "Figure") -> bool:
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return bool(drawn.x0 < 0 or drawn.y0 < 0 or drawn.x1 > width or drawn.y1 > height)


def test_progress_shows_every_trial_and_what_was_best_so_far(space: Space) -> None:
    trials = made(space, 12)
    best = best_of(trials)
    curves, record = plots.progress(trials, best).axes
    assert len(curves.lines) == 12
    assert f"best {best.accuracy:.2%} by trial {best.number}" in curves.get_title(loc="left")
    (steps,) = record.lines
    heights = np.asarray(steps.get_ydata(), dtype=float)
    assert (np.diff(heights) >= 0).all()
    assert heights[-1] == best.accuracy
    assert not is_clipped(plots.progress(trials, best))


def told(trials: list[Trial]) -> list[str]:
    (legend,) = plots.progress(trials, best_of(trials)).legends
    return [text.get_text() for text in legend.get_texts()]


def test_stopped_trials_and_copied_weights_are_marked_in_the_legend(space: Space) -> None:
    trials, always = made(space, 6), ["a trial's best epoch", "best so far"]
    assert told(trials) == ["stopped early", *always]
    whole = [dataclasses.replace(trial, status="finished") for trial in trials]
    assert told(whole) == always
    copied = [*whole[:-1], dataclasses.replace(whole[-1], exploits=(Exploit(1, 0, "", whole[0].point),))]
    assert told(copied) == ["took another's weights", *always]


def test_parallel_coordinates_have_an_axis_a_field_and_a_line_a_trial(space: Space) -> None:
    trials = made(space, 9)
    figure = plots.parallel_coordinates(space, trials, best_of(trials))
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == len(RANGES) + 1]
    assert len(lines) == 9
    assert len(axes.get_xticklabels()) == len(RANGES) + 1
    words = [text.get_text() for text in axes.texts]
    assert {"0.0001", "0.001", "0.01", "0.1", "16", "64"} <= set(words)
    assert not is_clipped(figure)


def test_one_trial_and_equal_trials_are_drawn(space: Space) -> None:
    one = made(space, 1)
    for figure in draw(Method("random"), space, one, one[0]).values():
        figure.canvas.draw()
    equal = [dataclasses.replace(one[0], number=number) for number in range(5)]
    assert set(draw(Method("random"), space, equal, equal[0])) == {"progress", "parallel"}


def test_importance_says_where_trials_are_few(space: Space) -> None:
    few = draw(Method("random"), space, made(space, 12), best_of(made(space, 12)))["importance"]
    assert "only 12 trials: a hint" in few.axes[0].get_title(loc="left")
    assert len(few.axes[0].patches) == len(RANGES)
    assert not is_clipped(few)
    many = plots.importance({"a": (0.7, 0.1), "b": (0.2, 0.05)}, 40)
    assert many.axes[0].get_title(loc="left") == "What mattered (40 trials)"
    assert [label.get_text() for label in many.axes[0].get_yticklabels()] == ["b", "a"]


def test_a_population_shows_its_schedules_instead(space: Space) -> None:
    rates = parse_space(image_recipe(), ["optimizer.lr=log:1e-4..1e-1", "label_smoothing=lin:0..0.3"])
    scores = tuple(Score(epoch, 0.5, 0.6, 0.1 * epoch, 1.0) for epoch in range(1, 5))
    point, other = rates.sample(0, 0), rates.sample(0, 1)
    copier = Trial(1, other, "", scores=scores, exploits=(Exploit(2, 0, "", point),))
    trials = [Trial(0, point, "", scores=scores), copier]
    figures = draw(Method("pbt"), rates, trials, trials[0])
    assert set(figures) == {"progress", "parallel", "schedules"}
    panel = figures["schedules"].axes[0]
    assert list(panel.lines[1].get_ydata()) == [other["optimizer.lr"]] * 2 + [point["optimizer.lr"]] * 2  # type: ignore[arg-type]
    assert not is_clipped(figures["schedules"])


def test_the_page_says_what_was_best_and_what_failed(space: Space) -> None:
    trials = [*made(space, 5), Trial(5, space.sample(0, 5), "", "failed", error="ValueError: <too> hot")]
    best = best_of(trials)
    page = html("heat", Method("asha"), space, trials, best, draw(Method("asha"), space, trials, best))
    assert f"{best.accuracy:.2%}" in page
    assert set_options(best) in page
    assert "&lt;too&gt; hot" in page
    assert page.count("<svg") == 3


def test_the_table_has_the_best_first_and_the_failed_last(space: Space) -> None:
    trials = [Trial(9, space.sample(0, 9), "", "failed", error="x"), *made(space, 4)]
    header, rows = table(trials)
    assert len(header) == len(rows[0]) == 4 + len(RANGES)
    accuracies = [float(row[1].rstrip("%")) for row in rows[:-1]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert rows[-1][0] == "9"


def test_the_best_point_is_written_as_a_command_takes_it() -> None:
    trial = Trial(0, {"optimizer.lr": 0.02, "batch_size": "64"}, "")
    assert set_options(trial) == "--set optimizer.lr=0.02 --set batch_size=64"
