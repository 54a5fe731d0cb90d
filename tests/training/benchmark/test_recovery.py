"""Nodes that are lost and come back, on a cluster of the benchmark's own, whose nodes are processes of this machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from training.benchmark.recovery import OFTEN, Runs, lose_node, shrink_and_grow


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_training_survives_its_nodes_and_takes_as_many_workers_as_there_is_room_for(
    runs: Runs, tmp_path: Path
) -> None:
    runs.finish("undisturbed", *OFTEN)
    lost = lose_node(runs)
    assert lost.identical and lost.every_row_once
    assert all(steps < 30 for steps in lost.steps_redone)

    elastic = shrink_and_grow(runs)
    assert elastic.every_row_once
    recoveries = json.loads((tmp_path / "elastic" / "recoveries.json").read_text())
    assert [one["world_size"] for one in recoveries] == [1, 2]
    assert "worker" in recoveries[0]["cause"]
    assert recoveries[1]["cause"] == "resized: 2 workers in place of 1"


def test_a_training_that_nothing_befell_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill that came too late would pass for one that was survived."""
    monkeypatch.setattr(Runs, "__init__", lambda self, folder: None)
    runs = Runs(tmp_path)
    runs.folder, runs.rows = tmp_path, 0
    (tmp_path / "worker" / "storage" / "training" / "samples").mkdir(parents=True)
    (tmp_path / "worker" / "recoveries.json").write_text("[]")
    with pytest.raises(RuntimeError, match="SIGKILL of worker 0: worker was not disturbed"):
        runs.outcome("worker", "SIGKILL of worker 0", None)
