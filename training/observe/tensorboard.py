"""TensorBoard: the figures of each epoch as event files."""

from pathlib import Path

from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.observe.breakdown import Breakdown
from training.observe.clock import StepClock


class TensorBoard(Watcher):
    """Writes with tensorboardX, which comes with Ray; `tensorboard --logdir` reads it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, training: Training, clock: StepClock) -> None:
        from tensorboardX import SummaryWriter

        self._clock = clock
        self._writer = SummaryWriter(str(self._folder))

    def epoch(self, training: Training, record: EpochRecord) -> None:
        figures: dict[str, float | None] = {
            "loss/train": record.train_loss,
            "loss/val": record.val_loss,
            "accuracy/val": record.val_accuracy,
            "learning_rate": record.learning_rate,
            "samples_per_s": record.samples_per_s,
            "gpu/utilization": record.gpu_utilization,
            "gpu/memory_bytes": record.gpu_memory_bytes,
            **Breakdown(self._clock.seconds).metrics(),
        }
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def end(self, training: Training) -> None:
        self._writer.close()
