from pathlib import Path

import pytest

from optimization.benchmark.cascade_models import cached_logits, variants_of
from optimization.benchmark.given_resnets import TASK_PARAMS, given_models
from tests.shared_data import data_folder, weights_folder
from training.task import Source, load_task


@pytest.mark.long
def test_the_given_weights_are_as_accurate_as_their_readme_says(tmp_path: Path) -> None:
    ranges = load_task("cifar10", Source(data_folder()))
    gate = load_task("cifar10", Source(data_folder()), TASK_PARAMS).splits["gate"]
    models = given_models(ranges, weights_folder() / "cifar10-resnet", tmp_path)
    made = variants_of(models, ranges, tmp_path)
    answers = cached_logits(made, gate.inputs, tmp_path / "logits")
    accuracy = {name: float((z.argmax(axis=1) == gate.labels).mean()) for name, z in answers.items()}
    assert 0.905 < accuracy["resnet20-fp32"] < 0.93
    assert 0.92 < accuracy["resnet56-fp32"] < 0.945
    for depth in ("resnet20", "resnet56"):
        assert abs(accuracy[f"{depth}-int8"] - accuracy[f"{depth}-fp32"]) < 0.005
        assert made[f"{depth}-int8"].size_bytes < 0.45 * made[f"{depth}-fp32"].size_bytes
