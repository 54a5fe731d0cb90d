"""EpochLog: one line an epoch for whoever looks on, and the same figures in the job's MLflow run where it has one."""

from collections.abc import Callable

from training.launch.job import TrainJob
from training.loop.training import EpochRecord, Training
from training.loop.watcher import Watcher
from training.observe.clock import StepClock
from training.registry import Registry, Run

# What of a record is logged, by its own name; the GPU's figures where there is one.
LOGGED = (
    "train_loss", "val_loss", "val_accuracy", "learning_rate", "samples_per_s", "gpu_utilization", "gpu_memory_bytes",
)  # fmt: skip
TOLD_BY = "val_loss"  # an epoch that has it in the run has been told


class EpochLog(Watcher):
    """What MLflow could not take after its epoch, because it did not answer or a kill came first, it gets later."""

    def __init__(self, job: TrainJob, say: Callable[[str], None]) -> None:
        self._job, self._epochs, self._say = job, job.recipe.epochs, say
        self._untold: list[EpochRecord] = []
        self._told: set[int] | None = None

    def begin(self, training: Training, clock: StepClock) -> None:
        self._untold = list(training.records)

    def epoch(self, training: Training, record: EpochRecord) -> None:
        left_s = (self._epochs - record.epoch) * record.seconds
        self._say(
            f"epoch {record.epoch:>3}/{self._epochs}  loss {record.train_loss:.4f}  val loss {record.val_loss:.4f}  "
            f"val accuracy {record.val_accuracy:.2%}  {record.samples_per_s:,.0f} samples/s  {left_s:.0f} s left"
        )
        self._untold.append(record)
        self._tell()

    def end(self, training: Training) -> None:
        self._tell()

    def _tell(self) -> None:
        if not self._job.run_id or not self._untold:
            return
        # Connecting looks first whether MLflow answers: its client would wait for it for minutes, and the workers too.
        run = Registry(self._job.tracking_uri).run(self._job.run_id)
        if self._told is None:
            self._told = run.steps_of(TOLD_BY)
        while self._untold:
            if self._untold[0].epoch not in self._told:
                _log(run, self._untold[0])
                self._told.add(self._untold[0].epoch)
            del self._untold[0]


def _log(run: Run, record: EpochRecord) -> None:
    figures = {name: getattr(record, name) for name in LOGGED}
    run.log_metrics({name: figure for name, figure in figures.items() if figure is not None}, step=record.epoch)
