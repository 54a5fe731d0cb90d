from pathlib import Path

import numpy as np
import pytest

from optimization.benchmark import given_resnets
from optimization.benchmark.given_resnets import cached_logits, cut_rows, given_variants
from tests import duel
from tests.shared_data import data_folder, weights_folder
from training.task import Source, Split, load_task


def _rows(count: int, seed: int = 0) -> Split:
    generator = np.random.default_rng(seed)
    return Split(generator.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8), np.zeros(count, np.int64))


def test_the_cut_is_by_content_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_resnets, "CALIBRATION_ROWS", 10)
    monkeypatch.setattr(given_resnets, "GATE_ROWS", 40)
    test = _rows(100)
    parts = cut_rows(test)
    assert [len(part) for part in parts] == [10, 40, 50]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    shuffled = np.random.default_rng(1).permutation(100)
    again = cut_rows(Split(test.inputs[shuffled], test.labels[shuffled]))
    for one, other in zip(parts, again, strict=True):
        assert {test.inputs[row].tobytes() for row in one} == {test.inputs[shuffled[row]].tobytes() for row in other}
    with pytest.raises(ValueError, match="50 rows cannot be cut into 10, 40"):
        cut_rows(_rows(50))


@pytest.mark.slow
def test_logits_are_computed_once_for_a_model_and_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = duel.write_model(tmp_path / "model", "student", flaw=1.0)
    inputs = duel.task(Source(), rows=40).splits["gate"].inputs
    first = cached_logits({"student": artifact}, inputs, tmp_path / "logits")
    assert first["student"].shape == (40, 3)
    other = cached_logits({"student": artifact}, inputs[:30], tmp_path / "logits")
    assert len(other["student"]) == 30, "other rows have logits of their own"
    monkeypatch.setattr(given_resnets, "open_runner", lambda *arguments: pytest.fail("computed again"))
    again = cached_logits({"student": artifact}, inputs, tmp_path / "logits")
    np.testing.assert_array_equal(again["student"], first["student"])


@pytest.mark.long
def test_the_given_weights_are_as_accurate_as_their_readme_says(tmp_path: Path) -> None:
    task = load_task("cifar10", Source(data_folder()))
    made = given_variants(task, weights_folder() / "cifar10-resnet", tmp_path)
    gate = task.splits["gate"]
    answers = cached_logits(made, gate.inputs, tmp_path / "logits")
    accuracy = {name: float((z.argmax(axis=1) == gate.labels).mean()) for name, z in answers.items()}
    assert 0.905 < accuracy["resnet20-fp32"] < 0.93
    assert 0.92 < accuracy["resnet56-fp32"] < 0.945
    for depth in ("resnet20", "resnet56"):
        assert abs(accuracy[f"{depth}-int8"] - accuracy[f"{depth}-fp32"]) < 0.005
        assert made[f"{depth}-int8"].size_bytes < 0.45 * made[f"{depth}-fp32"].size_bytes
