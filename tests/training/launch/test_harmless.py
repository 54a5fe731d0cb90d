import pytest

from tests.toys import image_recipe, images
from training.launch.harmless import Harmless
from training.loop.batches import Batch
from training.loop.fit import fit
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.models.architecture import build
from training.observe.clock import StepClock
from training.recipe import override
from training.registry import RegistryError
from training.task import Source


class _Failing(Watcher):
    """Says what it is asked to, and then fails with `errors`, one after the other."""

    def __init__(self, **errors: list[Exception]) -> None:
        self._errors, self.asked = errors, list[str]()

    def _look(self, what: str) -> None:
        self.asked.append(what)
        if self._errors.get(what):
            raise self._errors[what].pop(0)

    def begin(self, training: Training, clock: StepClock) -> None:
        self._look("begin")

    def step(self, training: Training, batch: Batch) -> None:
        self._look("step")

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self._look("epoch")

    def end(self, training: Training) -> None:
        self._look("end")


def _train(watcher: Watcher) -> None:
    task, recipe = images(Source()), override(image_recipe(), ["epochs=2"])
    module = build(recipe.architecture, task.encoding)
    fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"], watchers=[Harmless(watcher)]
    )  # fmt: skip


def test_a_full_disk_or_an_absent_server_ends_no_training(caplog: pytest.LogCaptureFixture) -> None:
    full = [OSError(28, "No space left on device") for _ in range(3)]
    watcher = _Failing(step=list[Exception](full), epoch=[RegistryError("no MLflow server answers")])
    _train(watcher)
    assert watcher.asked == ["begin", *["step"] * 6, "epoch", *["step"] * 6, "epoch", "end"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # the same one once
    assert "_Failing: [Errno 28] No space left on device; training goes on" in said[0]
    assert "no MLflow server answers" in said[1]


def test_what_cannot_begin_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    watcher = _Failing(begin=[PermissionError(13, "Permission denied")])
    _train(watcher)
    assert watcher.asked == ["begin"]
    assert "Permission denied" in caplog.text


def test_a_mistake_in_the_code_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        _train(_Failing(step=[ZeroDivisionError()]))
