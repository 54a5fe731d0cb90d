import threading
from pathlib import Path

import pytest

from tests.toys import image_recipe, images
from training.benchmark.pace import Pace, Turns, block_rates
from training.loop.fit import fit
from training.loop.watcher import Watcher
from training.models.architecture import build
from training.recipe import override
from training.task import Source


def _train(watcher: Watcher) -> None:
    task = images(Source())
    recipe = override(image_recipe(), ["epochs=50"])
    module = build(recipe.architecture, task.encoding)
    fit(recipe, module, task.encoding, task.splits["train"], task.splits["val"], watchers=[watcher])


def test_the_steps_after_the_first_ones_are_timed_and_then_it_ends() -> None:
    pace = Pace(skip=4, steps=10)
    _train(pace)
    assert pace.rows == 10 * 20
    assert pace.samples_per_s == pytest.approx(pace.rows / pace.seconds)


def test_two_trainings_go_in_turns_and_write_down_each_block_but_the_first(tmp_path: Path) -> None:
    order: list[int] = []

    class Noted(Turns):
        def _wait(self) -> None:
            super()._wait()
            order.append(self._me)

    both = [threading.Thread(target=_train, args=(Noted(tmp_path, me, 2, 3, 4),)) for me in (0, 1)]
    for one in both:
        one.start()
    for one in both:
        one.join(30)
        assert not one.is_alive()
    assert order == [0, 1] * 5
    assert [len(block_rates(tmp_path, me)) for me in (0, 1)] == [4, 4]
