"""How far a training is: what is told of it, and the bar that shows it."""

import io

import pytest

from tests.toys import image_recipe, images
from training.loop.fit import fit
from training.models.architecture import build
from training.observe.bar import Bar, Progress
from training.observe.progress import ProgressReports
from training.task import Source

EARLY = Progress(epoch=1, epochs=4, step=3, steps=24, loss=0.5, samples_per_s=1234.0)


def _shown(*told: Progress) -> str:
    stream = io.StringIO()
    bar = Bar(stream)
    for progress in told:
        bar.show(progress)
    bar.close()
    return stream.getvalue()


def test_a_bar_shows_where_a_training_is_and_how_fast() -> None:
    shown = _shown(EARLY, Progress(epoch=2, epochs=4, step=12, steps=24, loss=0.25, samples_per_s=1000.0))
    assert "epoch 2/4:  50%" in shown
    assert "12/24" in shown
    assert "loss 0.2500, 1,000 samples/s" in shown


def test_a_bar_goes_back_with_a_training_that_was_taken_back() -> None:
    stream = io.StringIO()
    bar = Bar(stream)
    for step in (20, 6):
        bar.show(Progress(epoch=1, epochs=4, step=step, steps=24, loss=None, samples_per_s=1.0))
    bar.close()
    shown = stream.getvalue()
    assert "6/24" in shown
    assert "loss" not in shown


def test_a_bar_that_was_shown_nothing_draws_nothing() -> None:
    assert _shown() == ""


def test_reports_count_steps_over_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.observe.progress.SHOWN_EVERY_S", 0.0)
    task, recipe = images(Source()), image_recipe()
    told: list[Progress] = []
    module = build(recipe.architecture, task.encoding)
    fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"],
        watchers=[ProgressReports(told.append)],
    )  # fmt: skip
    assert [progress.step for progress in told] == list(range(1, 25))
    assert {progress.steps for progress in told} == {24}
    assert [progress.epoch for progress in told[5:8]] == [1, 2, 2]
    assert all(progress.loss is not None and progress.samples_per_s > 0 for progress in told)


def test_reports_are_made_now_and_then() -> None:
    task, recipe = images(Source()), image_recipe()
    told: list[Progress] = []
    module = build(recipe.architecture, task.encoding)
    fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"],
        watchers=[ProgressReports(told.append)],
    )  # fmt: skip
    assert 1 <= len(told) < 24
