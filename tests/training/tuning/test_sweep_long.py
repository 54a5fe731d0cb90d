"""Whole sweeps on two cores, by the command that a user runs; each takes a minute or two."""

import os
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.training.tuning.sweeping import Sweep
from training.tuning.ledger import ranked

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

DIGITS = "tests.toys:digits_recipe"
RATE = ("--range", "optimizer.lr=log:1e-5..1e-1")


def _versions(client: MlflowClient) -> set[str]:
    return {version.version for version in client.search_model_versions(filter_string="name = 'toy_digits'")}


def test_twelve_asha_trials_finish_and_bad_ones_early(tmp_path: Path, mlflow_uri: str) -> None:
    sweep = Sweep(tmp_path, mlflow_uri, "halving", DIGITS, "--search", "asha", "--trials", "12", *RATE)
    registered = _versions(sweep.client)
    assert sweep.run() == 0, sweep.said()
    trials = sweep.trials()
    assert sorted(trials) == list(range(12))
    assert {trial.status for trial in trials.values()} == {"finished", "stopped"}
    best = ranked(trials.values())[0]
    assert best.accuracy > 0.9
    assert max(trial.epoch for trial in trials.values()) == 8
    assert sum(len(trial.scores) for trial in trials.values()) < 0.7 * 12 * 8

    children = sweep.children()
    assert sorted(children) == list(range(12))
    for number, run in children.items():
        assert run.info.status == "FINISHED"
        assert run.data.params["optimizer.lr"] == str(trials[number].point["optimizer.lr"])
        history = sweep.client.get_metric_history(run.info.run_id, "val_accuracy")
        assert [entry.step for entry in history] == [score.epoch for score in trials[number].scores]
    parent = sweep.parent
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["tandem.best"] == f"--set optimizer.lr={best.point['optimizer.lr']}"
    plots = {entry.path for entry in sweep.client.list_artifacts(parent.info.run_id, "plots")}
    assert plots == {f"plots/{name}.png" for name in ("progress", "parallel", "importance")}
    assert f"--set optimizer.lr={best.point['optimizer.lr']}" in sweep.said()
    assert _versions(sweep.client) == registered  # others may have used this registry; the sweep adds nothing


def test_a_population_of_four_copies_the_best(tmp_path: Path, mlflow_uri: str) -> None:
    """Its worst cannot learn by its own rate; it ends well because it went on from another's weights."""
    arguments = ("--search", "pbt", "--trials", "4", "--interval", "2", "--range", "optimizer.lr=log:1e-6..1e-1")
    sweep = Sweep(tmp_path, mlflow_uri, "population", DIGITS, *arguments)
    assert sweep.run() == 0, sweep.said()
    trials = sweep.trials()
    assert {trial.status for trial in trials.values()} == {"finished"}
    copiers = [trial for trial in trials.values() if trial.exploits]
    assert copiers
    for trial in copiers:
        for exploit in trial.exploits:
            assert exploit.source != trial.number
            assert exploit.point != trials[exploit.source].point_at(exploit.epoch)
        tags = sweep.children()[trial.number].data.tags
        last = trial.exploits[-1]
        assert tags["tandem.exploited_from"] == f"trial {last.source} after epoch {last.epoch}"
        assert tags["tandem.exploited_digest"] == last.digest
    # What was copied is to the bit what its owner had; of one that copied in its turn, the ledger no longer says it.
    copied = [
        (exploit.digest, score.digest)
        for trial in copiers
        for exploit in trial.exploits
        for score in trials[exploit.source].scores
        if score.epoch == exploit.epoch
    ]
    assert any(taken == had for taken, had in copied)
    assert min(trial.scores[-1].val_accuracy for trial in copiers) > 0.8


def test_a_sweep_whose_driver_was_killed_goes_on_without_repeating(tmp_path: Path, mlflow_uri: str) -> None:
    arguments = ("--search", "asha", "--trials", "12", "--grace", "2", "--set", "epochs=6", *RATE)
    sweep = Sweep(tmp_path, mlflow_uri, "killed", DIGITS, *arguments)
    sweep.kill_when(lambda trials: sum(trial.status != "running" for trial in trials.values()) >= 5)
    before = sweep.trials()
    over = {number: trial for number, trial in before.items() if trial.status != "running"}
    assert 5 <= len(over) < 12
    begun_ms = int(time.time() * 1000)
    run_id = sweep.parent.info.run_id

    assert sweep.run() == 0, sweep.said()
    after = sweep.trials()
    assert sorted(after) == list(range(12))
    assert all(trial.status in ("finished", "stopped") for trial in after.values())
    assert {number: after[number] for number in over} == over
    assert sweep.parent.info.run_id == run_id
    children = sweep.children()
    assert sorted(children) == list(range(12))
    for number in over:
        history = sweep.client.get_metric_history(children[number].info.run_id, "val_accuracy")
        assert all(entry.timestamp < begun_ms for entry in history), f"trial {number} was trained again"
        assert f"trial {number:>3} " not in sweep.said()
    for number, trial in before.items():
        # What was cut off went on: the epochs that it had stand as they were.
        assert after[number].scores[: len(trial.scores)] == trial.scores
        assert after[number].initial == trial.initial

    assert sweep.run() == 0
    assert sweep.trials() == after
    assert "at once" not in sweep.said()


def test_a_tpe_sweep_goes_on_from_what_it_knew(tmp_path: Path, mlflow_uri: str) -> None:
    arguments = ("--search", "tpe", "--trials", "8", "--set", "epochs=2", *RATE)
    sweep = Sweep(tmp_path, mlflow_uri, "parzen", DIGITS, *arguments)
    sweep.kill_when(lambda trials: sum(trial.status == "finished" for trial in trials.values()) >= 3)
    before = sweep.trials()
    assert sweep.run() == 0, sweep.said()
    after = sweep.trials()
    assert sorted(after) == list(range(8))
    assert all(trial.status == "finished" for trial in after.values())
    assert all(after[number].initial == trial.initial for number, trial in before.items())


def test_an_impossible_plan_is_refused_with_what_would_fit(tmp_path: Path, mlflow_uri: str) -> None:
    sweep = Sweep(tmp_path, mlflow_uri, "impossible", DIGITS, "--search", "random", *RATE, "--num-workers", "2")
    assert sweep.run() == 1
    assert (
        "training.tune: each trial needs 3 CPUs: 1 for its driver and 2 for its 2 workers of 1 CPU; the cluster has "
        "2 CPUs free. What would fit: --num-workers 1 or --driver-cpus 0"
    ) in sweep.said()
    assert not sweep.trials()
    assert not (tmp_path / "impossible" / "sweep.json").exists()


def test_trials_of_two_workers_train_beside_a_driver_without_a_cpu(tmp_path: Path, mlflow_uri: str) -> None:
    arguments = ("--search", "random", "--trials", "2", "--set", "epochs=2", *RATE)
    sweep = Sweep(tmp_path, mlflow_uri, "workers", DIGITS, *arguments, "--num-workers", "2", "--driver-cpus", "0")
    assert sweep.run() == 0, sweep.said()
    assert [len(trial.scores) for trial in sweep.trials().values()] == [2, 2]
    for run in sweep.children().values():
        history = sweep.client.get_metric_history(run.info.run_id, "val_accuracy")
        assert sorted({entry.step for entry in history}) == [1, 2]
    assert "2 trials, 1 at once, by random" in sweep.said()


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(tmp_path: Path, mlflow_uri: str) -> None:
    arguments = ("--search", "random", "--trials", "4", "--set", "epochs=4", *RATE)
    sweep = Sweep(tmp_path, mlflow_uri, "interrupted", DIGITS, *arguments)
    process = sweep.start()
    while not any(trial.scores for trial in sweep.trials().values()):
        assert process.poll() is None, sweep.said()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything that was started there
    assert process.wait(60) == 130
    assert "Traceback" not in sweep.said()
    assert "interrupted: the same command goes on" in sweep.said()
    assert sweep.parent.info.status == "KILLED"
    assert {run.info.status for run in sweep.children().values()} <= {"KILLED", "FINISHED"}

    assert sweep.run() == 0, sweep.said()
    assert {trial.status for trial in sweep.trials().values()} == {"finished"}
    assert sweep.parent.info.status == "FINISHED"
    assert {run.info.status for run in sweep.children().values()} == {"FINISHED"}
