import json
import math
import multiprocessing
from pathlib import Path

import pytest

from training.tuning.ledger import Exploit, Ledger, Score, Status, Trial, ranked

IDENTITY = {"recipe": {"epochs": "4"}, "ranges": ["optimizer.lr=log:1e-4..1e-1"], "data": "abc"}


def score(epoch: int, accuracy: float) -> Score:
    return Score(epoch, 0.5, 0.6, accuracy, 1.0)


def trial(*accuracies: float) -> Trial:
    return Trial(3, {"optimizer.lr": 0.1}, "run", scores=tuple(score(i + 1, a) for i, a in enumerate(accuracies)))


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    ledger.begin(IDENTITY)
    exploit = Exploit(1, 2, "ab" * 32, {"optimizer.lr": 0.2})
    kept = trial(0.5, 0.7).exploited(exploit).scored(score(2, 0.9))
    ledger.save(kept)
    ledger.save(Trial(11, {"optimizer.lr": 0.3}, "other", "failed", error="it broke"))
    assert Ledger(tmp_path / "sweep").trials() == {3: kept, 11: ledger.trial(11)}
    assert ledger.trial(3) == kept
    assert ledger.trial(11).error == "it broke"


def test_the_run_is_remembered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    assert ledger.run_id == ""
    ledger.begin(IDENTITY)
    ledger.set_run_id("abc")
    ledger.begin(IDENTITY)
    assert Ledger(tmp_path / "sweep").run_id == "abc"


def test_another_sweep_of_the_name_is_refused_with_the_difference(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    ledger.require_same(IDENTITY)
    ledger.begin(IDENTITY)
    ledger.require_same(IDENTITY)
    with pytest.raises(ValueError, match=r"another sweep: recipe epochs was 4 and is 8\. Give") as caught:
        ledger.require_same({**IDENTITY, "recipe": {"epochs": "8"}})
    assert "data" not in str(caught.value)


def test_a_write_that_was_cut_off_spoils_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    ledger.begin(IDENTITY)
    ledger.save(trial(0.5))
    (ledger.folder / "trials" / "0003.part").write_text('{"number": 3, "ini')
    assert ledger.trials() == {3: trial(0.5)}


def test_two_processes_cannot_have_one_sweep(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    with ledger.locked():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            message = pool.apply(_try_to_lock, (tmp_path / "sweep",))
        assert "being searched by another process" in message
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_try_to_lock, (tmp_path / "sweep",)) == ""


def _try_to_lock(folder: Path) -> str:
    try:
        with Ledger(folder).locked():
            return ""
    except ValueError as error:
        return str(error)


def test_the_best_epoch_is_the_later_of_equals() -> None:
    best = trial(0.5, 0.9, 0.7, 0.9, 0.8).best
    assert best is not None
    assert best.epoch == 4
    assert trial().best is None
    assert math.isnan(trial().accuracy)


def test_an_epoch_that_is_repeated_after_a_kill_is_noted_once() -> None:
    assert trial(0.5, 0.6).scored(score(2, 0.6)) == trial(0.5, 0.6)
    assert trial(0.5).scored(score(2, 0.6)) == trial(0.5, 0.6)


def test_a_trial_that_took_anothers_weights_forgets_what_came_after_them() -> None:
    moved = trial(0.1, 0.2, 0.3).exploited(Exploit(2, 7, "", {"optimizer.lr": 0.9})).scored(score(3, 0.8))
    assert [one.val_accuracy for one in moved.scores] == [0.1, 0.2, 0.8]
    assert moved.point == {"optimizer.lr": 0.9}
    assert moved.point_at(2) == {"optimizer.lr": 0.1}
    assert moved.point_at(3) == {"optimizer.lr": 0.9}


def test_checkpoints_go_and_the_scores_stay(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "sweep")
    ledger.begin(IDENTITY)
    ledger.save(trial(0.5))
    ledger.checkpoints(3).mkdir(parents=True)
    ledger.drop_checkpoints()
    assert not (ledger.folder / "checkpoints").exists()
    assert json.loads((ledger.folder / "trials" / "0003.json").read_text())["number"] == 3
    ledger.clear()
    assert not ledger.folder.exists()


def test_trials_rank_by_accuracy_then_loss_then_number() -> None:
    def one(number: int, accuracy: float, loss: float, status: Status = "finished") -> Trial:
        return Trial(number, {}, "", status, (Score(1, 0.5, loss, accuracy, 1.0),))

    unscored = Trial(9, {}, "")
    trials = [
        one(0, 1.0, 0.5, "failed"),
        unscored,
        one(4, 0.9, 0.2),
        one(3, 0.9, 0.2),
        one(2, 0.9, 0.1),
        one(1, 0.95, 0.9),
    ]
    assert [trial.number for trial in ranked(trials)] == [1, 2, 3, 4, 9, 0]
