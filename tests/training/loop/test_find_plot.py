import numpy as np

from training.loop.find import BatchCurve, RateCurve
from training.loop.find_plot import batch_figure, rate_figure


def test_the_rate_plot_marks_the_suggestion_and_is_not_pressed_flat_by_what_diverged() -> None:
    rates = np.geomspace(1e-6, 1, 50)
    losses = (2.3 - np.linspace(0, 2, 50)).tolist()
    losses[-2:] = [50.0, 5000.0]
    axes = rate_figure(RateCurve(tuple(rates), tuple(losses), tuple(losses), float(rates[20]), True)).axes[0]
    assert axes.get_xscale() == "log"
    assert np.allclose(axes.lines[2].get_xdata(), rates[20])
    assert axes.get_ylim()[1] < 5
    assert axes.get_ylim()[0] < min(losses)


def test_the_batch_plot_rings_the_suggestion() -> None:
    axes = batch_figure(BatchCurve((1, 2, 4), (10.0, 30.0, 29.0), 2)).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 4]  # type: ignore[union-attr]
    assert axes.collections[0].get_offsets().tolist() == [[2, 30]]  # type: ignore[attr-defined]
    assert "2 rows" in axes.get_title(loc="left")
