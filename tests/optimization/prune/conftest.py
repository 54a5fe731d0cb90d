from dataclasses import dataclass
from pathlib import Path

import pytest

from training.artifact import Artifact
from training.task import Task


@dataclass(frozen=True)
class Trained:
    """A small network that has learned to read digits."""

    task: Task
    artifact: Artifact


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    import dataclasses

    import torch

    from tests import toys
    from training.launch import job
    from training.loop.fit import fit
    from training.models.architecture import Architecture, build
    from training.task import Source
    from training.train import write_torch_artifact

    architecture = Architecture("resnet", {"widths": [16, 32]})
    recipe = dataclasses.replace(toys.digits_recipe(), architecture=architecture, epochs=4)
    task = toys.digits(Source())
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = build(architecture, task.encoding)
    weights = fit(recipe, module, task.encoding, task.splits["train"], task.splits["val"]).best.weights
    folder: Path = tmp_path_factory.mktemp("digits") / "teacher"
    return Trained(
        task, write_torch_artifact(folder, "teacher", recipe, task, job.Trained(weights, ()), parent="a" * 64)
    )
