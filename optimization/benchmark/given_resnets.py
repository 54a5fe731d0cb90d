"""Given ResNets: CIFAR-10 weights that others trained, as Artifacts.

They are those of github.com/akamaster/pytorch_resnet_cifar10; whoever has the files names their folder. They saw all
50,000 training images, so only the 10,000 test images are new to them.
"""

from pathlib import Path

from training.artifact import Artifact, load_artifact
from training.launch.job import content_of
from training.models.architecture import Architecture, build
from training.module import write_torch
from training.task import Task

FILES = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
ORIGIN = "that of github.com/akamaster/pytorch_resnet_cifar10, which saw all 50,000 training images"
# Of the task: what calibrates has to be new to them as well.
TASK_PARAMS = {"calibration_from": "test"}


def given_models(task: Task, weights: Path, folder: Path) -> dict[str, Artifact]:
    """`resnet20` and `resnet56`, made once and kept in `folder`; ValueError where the weights are not there or do not
    fit.
    """
    for file in FILES.values():
        # The end of a name is the beginning of the file's sha256, as PyTorch's hub names files.
        if not content_of(weights / file).startswith(file.partition("-")[2].partition(".")[0]):
            raise ValueError(f"{weights / file} is not the file of that name: its sha256 is another")
    return {name: _given(task, name, weights / file, folder / name) for name, file in FILES.items()}


def _given(task: Task, name: str, weights: Path, folder: Path) -> Artifact:
    if folder.is_dir():
        return load_artifact(folder)
    from training.models.weights import load_all_weights

    architecture = Architecture(name, PIXELS)
    module = build(architecture, task.encoding)
    load_all_weights(module, weights)
    return write_torch(folder, name, module.state_dict(), architecture, task)
