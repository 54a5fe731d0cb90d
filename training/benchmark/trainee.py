"""A training in a process of its own, which may be killed on the way: for the recovery benchmark and for tests.

`python -m training.benchmark.trainee OUT --how here|ray ...` (or under torchrun) trains the digits and writes into OUT
the weights, the epochs' records and the recoveries. With `--kill RANK:STEP,RANK:STEP,...` the n-th start of the
training is ended by SIGKILL of that worker in the middle of that step, counted from where it started, or of a later one
where there are not `--kill-after` whole checkpoints before.
"""

import argparse
import dataclasses
import importlib
import json
import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from training.checkpoint.store import MANIFEST_FILE
from training.launch.here import is_first
from training.launch.job import Compute, Observation, Trained, TrainJob
from training.launch.run import run_training
from training.loop.losses import Loss
from training.models.architecture import Architecture
from training.parallel.plan import add_plan_arguments, read_plan
from training.recipe import Augmentation, Optimizer, Recipe
from training.task import Source

ROWS_A_STEP = 50


@dataclasses.dataclass(frozen=True)
class Killed:
    """Makes the usual loss; the n-th start is killed by `kills[n]`, (rank, step), or later, once `after` checkpoints
    below `storage` are whole. `fallen` remembers how many were.

    Each step takes `pause_s` more, so that a signal from outside meets it in the middle.
    """

    fallen: Path
    storage: Path
    kills: tuple[tuple[int, int], ...] = ()
    after: int = 1
    pause_s: float = 0.0

    def __call__(self, module: nn.Module, usual: Loss) -> Loss:
        steps = 0
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self.fallen.mkdir(parents=True, exist_ok=True)
        starts = len(list(self.fallen.iterdir()))
        kill = self.kills[starts] if starts < len(self.kills) else None

        def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            time.sleep(self.pause_s)
            if kill and rank == kill[0] and steps >= kill[1] and self._whole() >= self.after:
                (self.fallen / str(starts)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(inputs, logits, labels)

        return loss

    def _whole(self) -> int:
        return len(list(self.storage.glob(f"*/checkpoints/*/{MANIFEST_FILE}")))


def recipe(epochs: int) -> Recipe:
    """All that a resume has to bring back: momentum, augmentation, dropout, running statistics, averaged weights."""
    return Recipe(
        task="digits",
        architecture=Architecture("convnet", {"widths": [16, 32, 48], "dropout": 0.1}),
        optimizer=Optimizer("adamw", lr=0.02),
        augmentation=Augmentation(shift=0.1, rotate_degrees=5),
        batch_size=ROWS_A_STEP,
        ema_decay=0.8,
        epochs=epochs,
    )


def save(trained: Trained, out: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(trained.weights), out / "weights.safetensors")
    (out / "records.json").write_text(json.dumps([dataclasses.asdict(record) for record in trained.records]))
    (out / "recoveries.json").write_text(json.dumps([dataclasses.asdict(one) for one in trained.recoveries]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.benchmark.trainee")
    parser.add_argument("out", type=Path)
    parser.add_argument("--how", choices=["here", "ray"], default="here")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--min-workers", type=int)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--run-id", default="")
    parser.add_argument("--kill", default="")
    parser.add_argument("--kill-after", type=int, default=1, help="so many whole checkpoints (default 1)")
    parser.add_argument(
        "--storage", help="default: OUT/storage; elsewhere no rows are written down, and nothing killed"
    )
    parser.add_argument("--pause-s", type=float, default=0.0)
    parser.add_argument("--spare-nodes", action="store_true", help="train on nodes with a resource named spare")
    parser.add_argument("--checkpoint-every-s", type=float, default=1e9)
    add_plan_arguments(parser)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    storage = out / "storage"
    kills = tuple((int(rank), int(step)) for rank, _, step in (kill.partition(":") for kill in _split(arguments.kill)))
    job = TrainJob(
        recipe(arguments.epochs),
        Source(),
        os.environ.get("MLFLOW_TRACKING_URI", ""),
        arguments.run_id,
        identity="trainee",
        observation=Observation(samples=not arguments.storage),
        make_loss=Killed(out / "fallen", storage, kills, arguments.kill_after, arguments.pause_s),
    )
    compute = Compute(
        workers=arguments.workers,
        min_workers=arguments.min_workers,
        grow_after_s=2.0,
        resources={"spare": 1.0} if arguments.spare_nodes else {},
        local=arguments.how == "here",
        plan=read_plan(arguments),
        storage=arguments.storage or str(storage),
        checkpoint_every_s=arguments.checkpoint_every_s,
    )
    trained = run_training(job, compute)
    if is_first():
        save(trained, out)


def _split(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


if __name__ == "__main__":
    # Run the imported module's main, so that what workers unpickle is of its classes and not of __main__'s.
    importlib.import_module("training.benchmark.trainee").main()
