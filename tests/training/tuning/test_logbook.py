from pathlib import Path

import pytest
from mlflow import MlflowClient

from training.registry import Registry, Run
from training.tuning.ledger import Exploit, Ledger, Score
from training.tuning.logbook import Logbook
from training.tuning.trial import Report

pytestmark = pytest.mark.slow

POINT = {"optimizer.lr": 0.012345678, "batch_size": 32}


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture
def parent(registry: Registry) -> Run:
    return registry.start_run("logbook", "sweep", {})


@pytest.fixture
def client(registry: Registry) -> MlflowClient:
    return MlflowClient(registry.tracking_uri, registry.tracking_uri)


def book(tmp_path: Path, registry: Registry, parent: Run) -> Logbook:
    ledger = Ledger(tmp_path / "sweep")
    ledger.begin({})
    return Logbook(ledger, registry, "logbook", parent, total=3, logs_epochs=True)


def report(epoch: int, accuracy: float, exploit: Exploit | None = None) -> Report:
    return Report(Score(epoch, 0.5, 0.6, accuracy, 1.0, "cd" * 32 if exploit else ""), 4, None, exploit)


def test_a_trial_is_a_run_below_the_sweeps(
    tmp_path: Path, registry: Registry, parent: Run, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    logbook = book(tmp_path, registry, parent)
    logbook.started(0, POINT)
    for epoch, accuracy in enumerate((0.5, 0.8, 0.9, 0.7), start=1):
        logbook.reported(0, report(epoch, accuracy), stopped=epoch == 4)
    logbook.ended(0)
    run = client.get_run(logbook.trials[0].run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.data.tags["tandem.status"] == "finished"
    assert run.data.params == {"optimizer.lr": "0.012345678", "batch_size": "32"}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.5), (2, 0.8), (3, 0.9), (4, 0.7)]
    assert run.data.metrics["best_val_accuracy"] == 0.9
    assert client.get_run(parent.run_id).data.metrics["best_val_accuracy"] == 0.9
    out = capsys.readouterr().out
    assert "finished after epoch 4, best 90.00%  optimizer.lr=0.0123 batch_size=32  [1/3 over" in out


def test_a_trial_stopped_before_its_last_epoch_says_so(tmp_path: Path, registry: Registry, parent: Run) -> None:
    logbook = book(tmp_path, registry, parent)
    logbook.started(0, POINT)
    logbook.reported(0, report(1, 0.2), stopped=True)
    logbook.ended(0)
    assert logbook.trials[0].status == "stopped"
    assert Ledger(tmp_path / "sweep").trials() == logbook.trials


def test_a_failure_is_named_with_its_error(
    tmp_path: Path, registry: Registry, parent: Run, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    logbook = book(tmp_path, registry, parent)
    logbook.started(2, POINT)
    logbook.failed(2, "TrainingError: loss nan is not finite at epoch 1")
    run = client.get_run(logbook.trials[2].run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["tandem.error"] == "TrainingError: loss nan is not finite at epoch 1"
    assert logbook.trials[2].error == run.data.tags["tandem.error"]
    said = capsys.readouterr().out
    assert "trial   2  failed: TrainingError: loss nan" in said
    assert "optimizer.lr=0.0123" in said


def test_a_sweep_that_goes_on_notes_each_epoch_once_in_the_same_run(
    tmp_path: Path, registry: Registry, parent: Run, client: MlflowClient
) -> None:
    first = book(tmp_path, registry, parent)
    first.started(0, POINT)
    first.reported(0, report(1, 0.5), stopped=False)
    first.reported(0, report(2, 0.6), stopped=False)
    first.close()
    run_id = first.trials[0].run_id
    assert client.get_run(run_id).info.status == "KILLED"

    second = book(tmp_path, registry, parent)
    second.started(0, POINT)
    assert client.get_run(run_id).info.status == "RUNNING"
    second.reported(0, report(2, 0.6), stopped=False)
    second.reported(0, report(3, 0.7), stopped=False)
    assert second.trials[0].run_id == run_id
    assert [entry.step for entry in client.get_metric_history(run_id, "val_accuracy")] == [1, 2, 3]


def test_an_exploit_shows_in_the_copiers_run(
    tmp_path: Path, registry: Registry, parent: Run, client: MlflowClient
) -> None:
    logbook = book(tmp_path, registry, parent)
    logbook.started(0, POINT)
    logbook.started(1, {"optimizer.lr": 1e-5, "batch_size": 32})
    logbook.reported(1, report(1, 0.1), stopped=False)
    logbook.reported(1, report(2, 0.1), stopped=False)
    exploit = Exploit(1, 0, "ab" * 32, {"optimizer.lr": 0.02, "batch_size": 32})
    logbook.reported(1, report(2, 0.8, exploit), stopped=False)
    run = client.get_run(logbook.trials[1].run_id)
    assert run.data.tags["tandem.exploited_from"] == "trial 0 after epoch 1"
    assert run.data.tags["tandem.exploited_digest"] == "ab" * 32
    assert run.data.tags["tandem.settings"] == "optimizer.lr=0.02 batch_size=32"
    assert run.data.metrics["point/optimizer.lr"] == 0.02
    assert [score.val_accuracy for score in logbook.trials[1].scores] == [0.1, 0.8]


def test_a_pause_is_no_new_start(tmp_path: Path, registry: Registry, parent: Run, client: MlflowClient) -> None:
    logbook = book(tmp_path, registry, parent)
    logbook.started(0, POINT)
    run_id = logbook.trials[0].run_id
    logbook.started(0, {"optimizer.lr": 0.5, "batch_size": 32})
    assert logbook.trials[0].run_id == run_id
    assert logbook.trials[0].point == POINT
