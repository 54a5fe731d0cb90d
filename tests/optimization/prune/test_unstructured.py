import json
from pathlib import Path

import pytest

from optimization.prune.accuracy import accuracy_of
from optimization.prune.fine_tune import School
from optimization.prune.settings import FineTune, Sparsify
from optimization.prune.sparse import sparsity
from optimization.prune.unstructured import sparsify
from tests.optimization.prune.conftest import Trained
from tests.toys import digits_recipe
from training.artifact import load_artifact
from training.launch.job import Compute
from training.module import load_module
from training.task import Source

pytestmark = pytest.mark.slow


@pytest.fixture
def school(tmp_path: Path) -> School:
    return School(digits_recipe(), Source(), Compute(local=True, storage=str(tmp_path / "store")))


def test_zeros_make_the_compressed_file_smaller_and_nothing_faster(
    digits: Trained, school: School, tmp_path: Path
) -> None:
    settings = Sparsify(0.8, rounds=2, fine_tune=FineTune(epochs=2, lr_share=0.5))
    made = sparsify(digits.artifact, digits.task, settings, school, tmp_path)
    again = load_artifact(tmp_path / "sparse")
    assert again == made.artifact
    assert again.manifest.architecture == digits.artifact.manifest.architecture
    assert again.manifest.parent == digits.artifact.digest
    module = load_module(again)
    assert made.sparsity == sparsity(module) == pytest.approx(0.8, abs=1e-3)
    assert sparsity(load_module(load_artifact(tmp_path / "sparse-1"))) == pytest.approx(1 - 0.2**0.5, abs=1e-3)
    assert made.accuracy == accuracy_of(module, digits.task.splits["val"])
    assert made.accuracy > made.accuracy_before - 0.05
    assert made.size.plain == pytest.approx(made.size_before.plain, rel=0.01)
    assert made.size.zstd < 0.4 * made.size_before.zstd
    assert 0.7 < made.speedup.ratio < 1.4
    assert json.loads(json.dumps(made.to_json()))["size"]["zstd"] == made.size.zstd


def test_without_epochs_it_only_zeroes(digits: Trained, school: School, tmp_path: Path) -> None:
    made = sparsify(digits.artifact, digits.task, Sparsify(0.3, "uniform", fine_tune=FineTune(0)), school, tmp_path)
    old, new = (load_module(artifact).state_dict() for artifact in (digits.artifact, made.artifact))
    assert all(bool(((new[name] == old[name]) | (new[name] == 0)).all()) for name in old)
    assert made.sparsity == pytest.approx(0.3, abs=1e-3)
