import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.toys import TEXTS, image_recipe
from training.encoding import Encoding, ImageEncoding
from training.loop import augment, batches
from training.loop.batches import PREFETCH, RESIDENT_SHARE, Batch, Batches
from training.loop.worker import Worker
from training.recipe import Augmentation, Recipe
from training.task import Split

RANDOM = np.random.default_rng(3)
COLOUR = ImageEncoding(height=8, width=10, channels=3, labels=("top", "middle", "bottom"))
PICTURES = Split(RANDOM.integers(0, 256, (47, 3, 8, 10), np.uint8), RANDOM.integers(0, 3, 47))
LENGTHS = RANDOM.integers(1, 5, 47)
LINES = Split(np.where(np.arange(8) < LENGTHS[:, None], RANDOM.integers(1, 40, (47, 8)), 0), RANDOM.integers(0, 2, 47))
# Seven batches of six and seven rows.
RECIPE = dataclasses.replace(image_recipe(), batch_size=7, seed=2)
STEPS = 7
MOVED = Augmentation(crop=0.5, shift=0.2, rotate_degrees=10, flip=True, erase=0.5)
MIXED = dataclasses.replace(MOVED, mixup=0.4, cutmix=1.0)


class FakeGpu(Worker):
    """A worker whose GPU is the CPU: its rows go all the ways that they would."""

    @property
    def on_gpu(self) -> bool:
        return True


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A GPU with all the memory that is wanted; returns what is pinned for it."""
    found: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(batches.os, "cpu_count", lambda: 4)
    _free(monkeypatch, 2**40)
    return found


def _free(monkeypatch: pytest.MonkeyPatch, size_bytes: float) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size_bytes, size_bytes))


def _batches(
    augmentation: Augmentation = MOVED,
    worker: Worker = Worker(),  # noqa: B008
    train: Split = PICTURES,
    encoding: Encoding = COLOUR,
    **changes: Any,
) -> Batches:
    recipe: Recipe = dataclasses.replace(RECIPE, augmentation=augmentation, **changes)
    return Batches(recipe, encoding, train, worker)


def _epoch(made: Batches, epoch: int = 1, first_step: int = 0) -> list[Batch]:
    found = [made.to_device(batch) for batch in made.epoch(epoch, first_step)]
    made.close()
    return found


def _same(one: Batch, other: Batch) -> bool:
    return (
        (one.epoch, one.step, one.rows, one.ids.tolist()) == (other.epoch, other.step, other.rows, other.ids.tolist())
        and torch.equal(one.inputs, other.inputs)
        and torch.equal(one.targets, other.targets)
    )


class _Slow(Batches):
    """Reads the later steps sooner than the earlier ones, and counts what it reads."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun: list[tuple[int, int]] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.broken_step = -1

    def _read(self, order: Any, epoch: int, step: int) -> Batch:
        self.begun.append((epoch, step))
        time.sleep(0.02 * (step % 3 == 0))
        assert step == 0 or self.goes_on.wait(10)
        if step == self.broken_step:
            raise OSError(f"step {step} lies on a disk that is gone")
        return super()._read(order, epoch, step)


@pytest.fixture
def slow(pinned: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> Iterator[_Slow]:
    """Three threads read."""
    _free(monkeypatch, 0)
    made = _Slow(dataclasses.replace(RECIPE, augmentation=MOVED, batch_size=2), COLOUR, PICTURES, FakeGpu())
    yield made
    made.close()


def test_batches_come_in_the_order_of_their_steps_however_long_each_takes_to_read(slow: _Slow) -> None:
    order = slow.order(1)
    for step, batch in enumerate(slow.epoch(1)):
        assert (batch.epoch, batch.step) == (1, step)
        np.testing.assert_array_equal(batch.ids, order.batch(step))
    assert sorted(slow.begun) == [(1, step) for step in range(24)]


def test_an_epoch_is_read_once_and_another_otherwise() -> None:
    first, second = _epoch(_batches()), _epoch(_batches(), epoch=2)
    for found in (first, second):
        assert [batch.step for batch in found] == list(range(STEPS))
        assert sorted(np.concatenate([batch.ids for batch in found])) == list(range(47))
    assert first[0].ids.tolist() != second[0].ids.tolist()
    for batch in first:
        np.testing.assert_array_equal(batch.targets, PICTURES.labels[batch.ids])


def test_an_epoch_goes_on_at_any_step_as_it_would_have() -> None:
    whole, rest = _epoch(_batches(MIXED)), _epoch(_batches(MIXED), first_step=4)
    assert len(rest) == 3
    assert all(_same(one, other) for one, other in zip(whole[4:], rest, strict=True))


def test_no_more_is_read_ahead_than_is_to_be_held_in_memory(slow: _Slow) -> None:
    reading = slow.epoch(1)
    next(reading)
    time.sleep(0.1)
    assert len(slow.begun) <= 1 + PREFETCH * 3
    assert len(slow.begun) > 3  # but some is


FIRST = [(1, 0), (1, 1), (1, 2), (1, 3)]  # the one that was got, and one in each thread


def _read_one(slow: _Slow) -> Iterator[Batch]:
    """An epoch of which one batch was got, while each thread is at work on another."""
    slow.goes_on.clear()
    reading = slow.epoch(1)
    next(reading)
    until = time.monotonic() + 10
    while len(slow.begun) < len(FIRST) and time.monotonic() < until:
        time.sleep(0.001)
    return reading


def test_closing_amid_an_epoch_waits_for_no_batch_that_was_not_begun(slow: _Slow) -> None:
    reading = _read_one(slow)
    threading.Timer(0.05, slow.goes_on.set).start()
    slow.close()
    assert sorted(slow.begun) == FIRST
    assert not any(thread.is_alive() for thread in slow._threads._threads)
    del reading


def test_an_epoch_that_is_left_early_is_no_burden_on_the_next(slow: _Slow) -> None:
    reading = _read_one(slow)
    del reading
    slow.goes_on.set()
    assert [batch.step for batch in slow.epoch(2)] == list(range(24))
    assert sorted(slow.begun) == FIRST + [(2, step) for step in range(24)]


def test_an_error_of_a_loading_thread_reaches_the_training_at_its_step(slow: _Slow) -> None:
    slow.broken_step = 5
    got = []
    with pytest.raises(OSError, match="step 5 lies on a disk that is gone"):
        for batch in slow.epoch(1):
            got.append(batch.step)
    assert got == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("balance", ["none", "sampling"])
@pytest.mark.parametrize("augmentation", [MOVED, MIXED], ids=["moved", "mixed"])
def test_workers_together_read_what_one_reads_alone(augmentation: Augmentation, balance: str) -> None:
    """A partner too: whom a row is mixed with is a matter of the whole batch."""
    alone = _epoch(_batches(augmentation, class_balance=balance))
    crew = [_epoch(_batches(augmentation, Worker(rank, 3), class_balance=balance)) for rank in range(3)]
    for step, whole in enumerate(alone):
        for rank in range(3):
            part = crew[rank][step]
            assert part.ids.tolist() == whole.ids[rank::3].tolist()
            assert part.rows == whole.rows == len(whole.ids)
            assert torch.equal(part.inputs, whole.inputs[rank::3])
            assert torch.equal(part.targets, whole.targets[rank::3])


def test_a_mixed_rows_partner_is_the_next_of_its_batch() -> None:
    numbered = Split(PICTURES.inputs, np.arange(47))
    encoding = dataclasses.replace(COLOUR, labels=tuple(map(str, range(47))))
    for batch in _epoch(_batches(Augmentation(mixup=0.4), train=numbered, encoding=encoding)):
        rows = np.arange(len(batch.ids))
        share = float(batch.targets[0, batch.ids[0]])
        expected = np.zeros((len(rows), 47))
        expected[rows, batch.ids], expected[rows, np.roll(batch.ids, -1)] = share, 1 - share
        np.testing.assert_allclose(batch.targets, expected, atol=1e-6)
        own, partners = (torch.from_numpy(PICTURES.inputs[ids]).double() for ids in (batch.ids, np.roll(batch.ids, -1)))
        assert (batch.inputs.double() - own * share - partners * (1 - share)).abs().max() <= 0.5 + 1e-3


def test_a_set_that_fits_well_is_read_where_the_gpu_has_it(
    pinned: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = PICTURES.inputs.nbytes
    for free, resident in ((size / RESIDENT_SHARE, True), (size / RESIDENT_SHARE - 1, False)):
        _free(monkeypatch, free)
        pinned.clear()
        made = _batches(worker=FakeGpu())
        assert (made._resident is not None) == resident
        next(made.epoch(1))
        assert bool(pinned) != resident
        made.close()


def test_a_set_that_is_read_on_the_cpu_anyway_is_not_kept_on_the_gpu(pinned: list[Tensor]) -> None:
    """Texts, whose length a GPU would have to be waited for to tell."""
    found = _epoch(_batches(worker=FakeGpu(), train=LINES, encoding=TEXTS))
    assert len(pinned) == 2 * STEPS
    assert {batch.inputs.shape[1] for batch in found} < set(range(1, 9))


def test_a_cpu_has_no_set_resident_and_pins_nothing(pinned: list[Tensor]) -> None:
    made = _batches()
    assert made._resident is None
    _epoch(made)
    assert not pinned


POLICY = dataclasses.replace(MIXED, policy="trivial_augment")


@pytest.mark.parametrize("free_bytes", [2**40, 0], ids=["resident", "copied"])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(), MOVED, MIXED, pytest.param(POLICY, marks=pytest.mark.slow)],
    ids=["none", "moved", "mixed", "policy"],
)
def test_a_gpu_trains_on_what_a_cpu_does(
    pinned: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    augmentation: Augmentation,
    world_size: int,
    free_bytes: int,
) -> None:
    _free(monkeypatch, free_bytes)
    expected = _epoch(_batches(augmentation, Worker(1 % world_size, world_size)))
    found = _epoch(_batches(augmentation, FakeGpu(1 % world_size, world_size)))
    assert len(found) == STEPS
    assert all(_same(one, other) for one, other in zip(found, expected, strict=True))
    assert bool(pinned) == (not free_bytes or augmentation is POLICY)


@pytest.mark.parametrize("free_bytes", [2**40, 0], ids=["resident", "copied"])
def test_any_rows_are_had_as_a_batch_has_them(
    pinned: list[Tensor], monkeypatch: pytest.MonkeyPatch, free_bytes: int
) -> None:
    _free(monkeypatch, free_bytes)
    batch = _epoch(_batches())[2]
    for worker in (Worker(), FakeGpu()):
        made = _batches(worker=worker)
        inputs, labels = made.rows(batch.ids, epoch=1)
        assert torch.equal(inputs, batch.inputs)
        assert torch.equal(labels, batch.targets)
        made.close()


class _Noted:
    """Which threads did what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: dict[str, set[str]] = {"move": set(), "policy": set(), "erase": set(), "mix": set()}
        self._note(monkeypatch, augment, "move", "move")
        self._note(monkeypatch, augment, "erase", "erase")
        self._note(monkeypatch, augment.Policy, "__call__", "policy")
        self._note(monkeypatch, batches, "mix", "mix")

    def _note(self, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, what: str) -> None:
        real = getattr(place, name)

        def noted(*arguments: Any) -> Any:
            self.threads[what].add(threading.current_thread().name.partition("_")[0])
            return real(*arguments)

        monkeypatch.setattr(place, name, noted)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["none", "rand_augment"])
@pytest.mark.parametrize("where", ["cpu", "resident", "copied"])
def test_a_gpu_changes_whole_batches_and_threads_change_single_images(
    pinned: list[Tensor], monkeypatch: pytest.MonkeyPatch, where: str, policy: Any
) -> None:
    noted = _Noted(monkeypatch)
    _free(monkeypatch, 2**40 if where == "resident" else 0)
    worker = Worker() if where == "cpu" else FakeGpu()
    _epoch(_batches(dataclasses.replace(MIXED, policy=policy), worker))
    late = "loader" if where == "cpu" else "MainThread"
    # What comes before a policy stays with it, so that the order is the same everywhere.
    early = late if policy == "none" else "loader"
    changed = {"loader"} if policy != "none" else set()
    assert noted.threads == {"move": {early}, "policy": changed, "erase": {late}, "mix": {late}}
