import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from optimization.benchmark import cascade_models
from optimization.benchmark.cascade_models import cached_logits, variant_names, variants_of
from tests import duel, toys
from training.artifact import Artifact
from training.task import Source

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return duel.write_model(tmp_path_factory.mktemp("graph") / "model", "student", flaw=1.0)


def test_a_graph_competes_as_it_is(graph: Artifact, tmp_path: Path) -> None:
    assert variant_names("given", graph) == ("given",)
    assert variants_of({"given": graph}, duel.task(Source(), rows=40), tmp_path) == {"given": graph}


def test_a_torch_model_competes_in_two_precisions_which_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = toys.digits(Source())
    model = toys.write_torch(tmp_path / "torch", task, toys.digits_recipe().architecture)
    assert variant_names("net", model) == ("net-fp32", "net-int8")
    # What a kill left half made is made anew.
    half = tmp_path / "work" / f"net-{model.digest[:16]}-{task.data_hash[:8]}.part" / "net-fp32"
    half.mkdir(parents=True)
    made = variants_of({"net": model}, task, tmp_path / "work")
    assert {name: artifact.manifest.precision for name, artifact in made.items()} == {
        "net-fp32": "fp32",
        "net-int8": "int8",
    }
    monkeypatch.setattr(cascade_models, "float_variant", lambda *arguments: pytest.fail("made again"))
    assert variants_of({"net": model}, task, tmp_path / "work") == made
    monkeypatch.undo()
    other = dataclasses.replace(task, splits={**task.splits, "calibration": task.splits["train"]})
    assert other.data_hash != task.data_hash
    variants_of({"net": model}, other, tmp_path / "work")
    assert len([path for path in (tmp_path / "work").iterdir() if path.suffix != ".part"]) == 2
    shutil.rmtree(tmp_path / "work")


def test_logits_are_computed_once_for_a_model_and_its_rows(
    graph: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = duel.task(Source(), rows=40).splits["gate"].inputs
    first = cached_logits({"student": graph}, inputs, tmp_path / "logits")
    assert first["student"].shape == (40, 3)
    other = cached_logits({"student": graph}, inputs[:30], tmp_path / "logits")
    assert len(other["student"]) == 30, "other rows have logits of their own"
    monkeypatch.setattr(cascade_models, "open_runner", lambda *arguments: pytest.fail("computed again"))
    again = cached_logits({"student": graph}, inputs, tmp_path / "logits")
    np.testing.assert_array_equal(again["student"], first["student"])
