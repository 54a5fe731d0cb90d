"""A training on two Ray workers, one of which dies as if it were killed when it first reaches the second epoch.

Run by its test in a process of its own: `python -m tests.training.lost_worker FOLDER RUN_ID`, on the cluster at
RAY_ADDRESS. Writes the weights and the epochs into FOLDER.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from tests.toys import image_recipe
from training.launch import Compute, TrainJob, run_training
from training.loop.fit import Loss
from training.models.architecture import Architecture
from training.recipe import Optimizer
from training.task import Source


@dataclasses.dataclass(frozen=True)
class Falls:
    """Makes the usual loss; the first worker that calls it for the ninth time leaves `fallen` behind and dies."""

    fallen: Path

    def __call__(self) -> Loss:
        steps = []

        def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
            steps.append(1)
            if len(steps) == 9 and not self.fallen.exists():
                self.fallen.touch()
                os._exit(1)
            return functional.cross_entropy(logits, labels)

        return loss


def job(run_id: str, fallen: Path | None) -> TrainJob:
    recipe = dataclasses.replace(
        image_recipe(), architecture=Architecture("tests.toys:dense"), optimizer=Optimizer("sgd", lr=0.05)
    )
    make_loss = Falls(fallen) if fallen else None
    return TrainJob(recipe, Source(), os.environ["MLFLOW_TRACKING_URI"], run_id, make_loss=make_loss)


def main(folder: Path, run_id: str) -> None:
    from safetensors.torch import save_file

    compute = Compute(workers=2, storage=folder / "storage")
    trained = run_training(job(run_id, folder / "fallen"), compute)
    save_file(dict(trained.weights), folder / "weights.safetensors")
    (folder / "epochs.json").write_text(json.dumps([record.epoch for record in trained.records]))


if __name__ == "__main__":
    from tests.training.lost_worker import main as imported  # what workers unpickle is of the module, not of __main__

    imported(Path(sys.argv[1]), sys.argv[2])
