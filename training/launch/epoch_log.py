"""EpochLog: one line an epoch on the terminal, and the same figures in the job's MLflow run where it has one."""

from training.launch.job import TrainJob
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.registry import Registry


class EpochLog(Watcher):
    def __init__(self, job: TrainJob) -> None:
        self._epochs = job.recipe.epochs
        self._run = Registry(job.tracking_uri).run(job.run_id) if job.run_id else None

    def epoch(self, training: Training, record: EpochRecord) -> None:
        left_s = (self._epochs - record.epoch) * record.seconds
        print(
            f"epoch {record.epoch:>3}/{self._epochs}  loss {record.train_loss:.4f}  val loss {record.val_loss:.4f}  "
            f"val accuracy {record.val_accuracy:.2%}  {record.samples_per_s:,.0f} samples/s  {left_s:.0f} s left",
            flush=True,
        )
        if self._run is None:
            return
        figures = {
            "train_loss": record.train_loss,
            "val_loss": record.val_loss,
            "val_accuracy": record.val_accuracy,
            "learning_rate": record.learning_rate,
            "samples_per_s": record.samples_per_s,
        }
        self._run.log_metrics(figures, step=record.epoch)
