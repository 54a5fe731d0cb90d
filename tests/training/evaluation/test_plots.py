import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.container import BarContainer

from training.encoding import Array
from training.evaluation import plots
from training.evaluation.scores import Evaluation, evaluate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Record:
    epoch: int
    train_loss: float = 0.5
    val_loss: float = 0.6
    val_accuracy: float = 0.8
    learning_rate: float = 1e-3
    samples_per_s: float = 900.0


def _answers(classes: int, rows: int = 400, noise: float = 1.6) -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, rows)
    return np.eye(classes)[labels] * 5 + generator.normal(size=(rows, classes)) * noise, labels


def _evaluation(names: tuple[str, ...]) -> Evaluation:
    return evaluate(*_answers(len(names)), names)


def _is_clipped(figure: "Figure") -> bool:
    """Whether anything drawn, such as a long label, reaches beyond the figure's edge."""
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return bool(drawn.x0 < 0 or drawn.y0 < 0 or drawn.x1 > width or drawn.y1 > height)


def test_curves_show_every_epoch_and_ring_the_last_of_the_best() -> None:
    accuracies = (0.5, 0.9, 0.7, 0.9, 0.6)
    figure = plots.curves([Record(epoch, val_accuracy=value) for epoch, value in enumerate(accuracies, start=1)])
    loss, accuracy, _, _ = figure.axes
    assert [line.get_label() for line in loss.lines] == ["train", "validation"]
    assert np.array_equal(accuracy.lines[0].get_ydata(), accuracies)
    assert accuracy.get_title(loc="left") == "Validation accuracy, best 90.00% in epoch 4"
    assert not _is_clipped(figure)


def test_curves_of_a_single_epoch_are_drawn_and_of_none_refused() -> None:
    figure = plots.curves([Record(7)])
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [7]
    with pytest.raises(ValueError, match="no epochs"):
        plots.curves([])


def test_confusion_counts_every_cell_and_clips_no_long_name() -> None:
    evaluation = _evaluation(CLOTHES)
    figure = plots.confusion(evaluation, CLOTHES)
    counts = [int(text.get_text()) for text in figure.axes[0].texts]
    assert sum(counts) == evaluation.rows
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list(CLOTHES)
    assert not _is_clipped(figure)


def test_confusion_of_many_classes_shows_those_that_err_most() -> None:
    names = tuple(f"class {i}" for i in range(100))
    labels = np.arange(400) % 100
    answers = labels.copy()
    answers[labels == 71] = 33
    figure = plots.confusion(evaluate(np.eye(100)[answers], labels, names), names)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(shown) == plots.MAX_COUNTED_CLASSES
    assert {"class 33", "class 71"} <= set(shown)
    assert "20 most confused of 100 classes" in figure.axes[0].get_title(loc="left")
    assert not _is_clipped(figure)


def test_names_too_long_for_an_axis_are_cut() -> None:
    assert plots.short("Ankle boot") == "Ankle boot"
    assert len(plots.short("an endless name of a class")) == plots.MAX_NAME


def test_reliability_draws_the_bins_and_says_the_error() -> None:
    logits, labels = _answers(4)
    figure = plots.reliability(logits, labels)
    upper, lower = figure.axes
    (bars,) = lower.containers
    assert isinstance(bars, BarContainer)
    assert np.sum(bars.datavalues) == pytest.approx(1.0)
    evaluation = evaluate(logits, labels, tuple("abcd"))
    assert upper.get_title(loc="left").endswith(f"error {evaluation.ece:.2%}")
    assert upper.get_title(loc="left") != plots.reliability(logits, labels, 4.0).axes[0].get_title(loc="left")
    assert not _is_clipped(figure)


def test_classes_are_ordered_with_the_weakest_on_top() -> None:
    evaluation = _evaluation(CLOTHES)
    figure = plots.per_class(evaluation, CLOTHES)
    weakest = min(evaluation.classes, key=lambda score: score.f1)
    assert figure.axes[0].get_yticklabels()[-1].get_text() == f"{weakest.label}  ({weakest.support})"
    assert not _is_clipped(figure)


def test_plots_leave_pyplot_alone() -> None:
    script = (
        "import sys; from training.evaluation import plots; figure = plots.new_figure(2, 2); figure.canvas.draw(); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
