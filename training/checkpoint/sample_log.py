"""SampleLog: which rows were read at which step, to prove that a disturbed training read each once an epoch."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.loop.batches import Batch
from training.loop.training import Training
from training.loop.watcher import Watcher
from training.observe.clock import StepClock

Ids = NDArray[np.int64]


class SampleLog(Watcher):
    """Appends each step's rows of this worker to a file of its own, unbuffered: a kill loses none."""

    def __init__(self, folder: Path, attempt: int, rank: int) -> None:
        self._path = folder / f"attempt-{attempt:06}-rank-{rank:04}.ids"

    def begin(self, training: Training, clock: StepClock) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._path.open("wb", buffering=0)
        self._stream.write(np.array([training.position.epoch, training.position.step], np.int64).tobytes())

    def step(self, training: Training, batch: Batch) -> None:
        # The position is the next step already.
        head = [training.position.epoch, training.position.step - 1, len(batch.ids)]
        self._stream.write(np.concatenate([np.array(head, np.int64), batch.ids]).tobytes())

    def end(self, training: Training) -> None:
        self._stream.close()


def surviving_rows(folder: Path) -> Mapping[int, Ids]:
    """Epoch -> the rows that the final weights were trained on, in the order of their steps.

    Of an attempt only the steps before the one at which the next attempt took up count: what came after was lost.
    """
    attempts: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("attempt-*-rank-*.ids")):
        attempts[int(path.name.split("-")[1])].append(path)
    starts = {attempt: _read(paths[0])[0] for attempt, paths in attempts.items()}
    rows: dict[int, dict[int, list[Ids]]] = defaultdict(lambda: defaultdict(list))
    for attempt, paths in sorted(attempts.items()):
        end = min((start for later, start in starts.items() if later > attempt), default=(2**62, 0))
        for path in paths:
            for epoch, step, ids in _read(path)[1]:
                if (epoch, step) < end:
                    rows[epoch][step].append(ids)
    return {
        epoch: np.concatenate([ids for _, parts in sorted(steps.items()) for ids in parts])
        for epoch, steps in sorted(rows.items())
    }


def _read(path: Path) -> tuple[tuple[int, int], list[tuple[int, int, Ids]]]:
    numbers = np.frombuffer(path.read_bytes()[: path.stat().st_size // 8 * 8], np.int64)
    start, at, steps = (int(numbers[0]), int(numbers[1])), 2, []
    while at + 3 <= len(numbers) and at + 3 + numbers[at + 2] <= len(numbers):
        epoch, step, count = (int(number) for number in numbers[at : at + 3])
        steps.append((epoch, step, numbers[at + 3 : at + 3 + count]))
        at += 3 + count
    return start, steps
