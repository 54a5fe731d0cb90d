import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from optimization.variants import Variant
    from training.artifact import Artifact
    from training.task import Task


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads than a shared core has make toy models slower, and sums differ by their order."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield


@dataclass(frozen=True)
class Exported:
    """A trained toy model as PyTorch left it, and as ONNX: exporting takes seconds, so it is done once."""

    task: "Task"
    source: "Artifact"
    variant: "Variant"


def _export(folder: Path, kind: str) -> Exported:
    import torch

    from optimization.variants import float_variant
    from tests import toys
    from training.launch.job import Trained
    from training.loop.fit import fit
    from training.models.architecture import Architecture, build
    from training.task import Source
    from training.train import write_torch_artifact

    lstm = Architecture("lstm", {"vocabulary": toys.VOCABULARY, "embedding": 32, "hidden": 32, "dropout": 0.2})
    recipe = {
        "images": toys.digits_recipe_student(),
        "texts": dataclasses.replace(toys.image_recipe(), task="tests.toys:texts", architecture=lstm),
    }[kind]
    task = {"images": toys.digits, "texts": toys.texts}[kind](Source())
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = build(recipe.architecture, task.encoding)
    weights = fit(recipe, module, task.encoding, task.splits["train"], task.splits["val"]).best.weights
    source = write_torch_artifact(folder / "source", "student", recipe, task, Trained(weights, ()), parent=None)
    return Exported(task, source, float_variant("student-fp32", source, task, folder, threads=1))


@pytest.fixture(scope="session")
def exported_images(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A convnet that reads digits."""
    return _export(tmp_path_factory.mktemp("images"), "images")


@pytest.fixture(scope="session")
def exported_texts(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An LSTM that tells wild texts from calm ones."""
    return _export(tmp_path_factory.mktemp("texts"), "texts")
