"""Workers of which one lacks the memory for its share of a batch: all start again, with fewer rows at once."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.toys import image_recipe
from tests.training.parallel.crew import Crew
from training.launch.job import Compute, TrainJob
from training.launch.run_folder import RunFolder
from training.launch.work import work
from training.loop.training import TrainingError
from training.loop.worker import Worker
from training.task import Source

pytestmark = pytest.mark.slow


class SmallMemory(nn.Module):
    """A model of which the second worker cannot hold more than 4 rows."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.seen = module, set[int]()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen.add(len(inputs))
            if len(inputs) > 4 and torch.distributed.get_rank() == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
        logits: Tensor = self.module(inputs)
        return logits


def train(rank: int, world_size: int, storage: Path) -> tuple[int, int]:
    """The most rows that went through the model at once, and the micro-batch that a checkpoint tells of."""
    recipe = dataclasses.replace(image_recipe(), epochs=2)
    job = TrainJob(recipe, Source(), "", "", identity="memory", wrap=SmallMemory)
    compute = Compute(workers=2, storage=str(storage))
    training = work(job, compute, Worker(rank, world_size), "owner", notes_faults=False)
    assert isinstance(training.module, SmallMemory)
    found = RunFolder(compute.folder(job)).store.newest()
    return max(training.module.seen), found.state["micro_batch"] if found else 0


def test_after_a_restart_all_workers_take_the_rows_that_fit(crew: Crew, tmp_path: Path) -> None:
    """A share of 10 rows is halved at each restart; the memory runs out before anything can be kept."""
    for rows, half in ((10, 5), (5, 3)):
        with pytest.raises(TrainingError, match=f"{rows} rows a worker do not fit its memory .* micro_batch={half} "):
            crew.run(2, train, tmp_path)
    most = crew.run(2, train, tmp_path)
    assert [rows for rows, _ in most] == [3, 3]
    assert most[0][1] == 3
