import dataclasses
from pathlib import Path

import numpy as np
import pytest

from optimization.benchmark import cascade_models
from optimization.benchmark.cascade_models import cached_logits, cut_rows, variants_of
from optimization.variants import range_split
from tests import duel
from training.task import Source, Split


def _keys(split: Split) -> set[bytes]:
    return {row.tobytes() for row in split.inputs}


def test_rows_that_set_ranges_do_not_calibrate(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = duel.task(Source(), rows=200)
    inputs = np.random.default_rng(0).integers(0, 256, toy.splits["calibration"].inputs.shape, dtype=np.uint8)
    calibration = Split(inputs, toy.splits["calibration"].labels)
    task = dataclasses.replace(toy, splits={**toy.splits, "calibration": calibration})
    rows = cut_rows(task, ranges=task)
    assert not _keys(rows["calibration"]) & _keys(range_split(task))
    assert len(rows["calibration"]) + len(range_split(task)) == len(task.splits["calibration"])
    assert (rows["gate"], rows["report"]) == (task.splits["gate"], task.splits["report"])
    other = dataclasses.replace(task)
    assert len(cut_rows(task, ranges=other)["calibration"]) == len(task.splits["calibration"])
    monkeypatch.setattr(cascade_models, "CALIBRATION_ROWS", 50)
    few = cut_rows(task, ranges=task)["calibration"]
    assert len(few) == 50
    assert _keys(few) < _keys(rows["calibration"])


@pytest.mark.slow
def test_a_graph_competes_as_it_is(tmp_path: Path) -> None:
    graph = duel.write_model(tmp_path / "model", "student", flaw=1.0)
    assert graph.manifest.format == "onnx"
    assert variants_of({"given": graph}, duel.task(Source(), rows=40), tmp_path) == {"given": graph}


@pytest.mark.slow
def test_logits_are_computed_once_for_a_model_and_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = duel.write_model(tmp_path / "model", "student", flaw=1.0)
    inputs = duel.task(Source(), rows=40).splits["gate"].inputs
    first = cached_logits({"student": artifact}, inputs, tmp_path / "logits")
    assert first["student"].shape == (40, 3)
    other = cached_logits({"student": artifact}, inputs[:30], tmp_path / "logits")
    assert len(other["student"]) == 30, "other rows have logits of their own"
    monkeypatch.setattr(cascade_models, "open_runner", lambda *arguments: pytest.fail("computed again"))
    again = cached_logits({"student": artifact}, inputs, tmp_path / "logits")
    np.testing.assert_array_equal(again["student"], first["student"])
