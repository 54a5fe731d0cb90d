"""A training that each process keeps its part of: killed, damaged, and with another number of processes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.parallel.crew import Crew
from tests.training.parallel.kept import NEVER_S, OFTEN_S, Kept, keep, save_where
from tests.training.parallel.test_strategies import close
from tests.training.parallel.trainings import DENSE, DROPOUT, ENCODER
from training.checkpoint.folder import Folder
from training.checkpoint.store import CheckpointStore
from training.launch.run_folder import RunFolder
from training.loop.training import Position
from training.models.architecture import Architecture
from training.parallel.plan import Plan
from training.recipe import Optimizer

pytestmark = pytest.mark.slow

RECIPE = dataclasses.replace(DROPOUT, epochs=4, optimizer=Optimizer("adamw", lr=3e-3))
SHARDED = Plan("sharded")


@pytest.fixture(scope="module")
def undisturbed(crew: Crew, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return crew.run(2, keep, SHARDED, tmp_path_factory.mktemp("undisturbed"), RECIPE)[0].weights


def _same(kept: Kept, weights: dict[str, Tensor]) -> bool:
    return kept.weights.keys() == weights.keys() and all(torch.equal(kept.weights[n], weights[n]) for n in weights)


def _checkpoints(storage: Path) -> list[Path]:
    """The whole ones, oldest first."""
    return sorted(path.parent for path in storage.glob("*/checkpoints/epoch-*/manifest.json"))


def _run_folder(storage: Path) -> RunFolder:
    (url,) = storage.iterdir()
    return RunFolder(str(url))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_training_goes_on_within_its_epoch_to_the_same_bits(
    crew: Crew, undisturbed: dict[str, Tensor], tmp_path: Path, killed: int
) -> None:
    with pytest.raises(RuntimeError):  # from the one that died, or from the other, whom it left alone
        crew.run(2, keep, SHARDED, tmp_path, RECIPE, OFTEN_S, 0.05, (killed, 2))
    resumed, other = crew.run(2, keep, SHARDED, tmp_path, RECIPE)
    assert (resumed.began.epoch, resumed.began.step > 0) == (2, True)
    assert (other.began, other.steps) == (resumed.began, resumed.steps)
    assert _same(resumed, undisturbed)
    assert other.weights == {}


@pytest.mark.parametrize("plan", [SHARDED, Plan("sharded", replicas=2), Plan("sharded", pipeline=2)])
def test_running_statistics_are_the_first_process_own(crew: Crew, tmp_path: Path, plan: Plan) -> None:
    """Within an epoch each process has others, and only those of the first one come to anything."""
    chain = Architecture("tests.training.parallel.encoder:normalized", {"width": 12})
    recipe = dataclasses.replace(DENSE, architecture=chain, ema_decay=0.9)
    processes = 2 if plan is SHARDED else 4
    undisturbed = crew.run(processes, keep, plan, tmp_path / "undisturbed", recipe)[0]
    with pytest.raises(RuntimeError):
        crew.run(processes, keep, plan, tmp_path / "killed", recipe, OFTEN_S, 0.05, (0, 2))
    resumed = crew.run(processes, keep, plan, tmp_path / "killed", recipe)[0]
    assert resumed.began.step > 0
    assert _same(resumed, undisturbed.weights)


def test_a_checkpoint_has_a_part_of_each_process_and_no_whole_state(crew: Crew, tmp_path: Path) -> None:
    crew.run(2, keep, SHARDED, tmp_path, RECIPE)
    for folder in _checkpoints(tmp_path):
        written = {path.name: path.stat().st_size for path in folder.iterdir()}
        assert written.keys() == {"__0_0.distcp", "__1_0.distcp", ".metadata", "state.pt", "manifest.json"}
        assert json.loads((folder / "manifest.json").read_text())["files"].keys() == written.keys() - {"manifest.json"}
        assert 0.5 < written["__0_0.distcp"] / written["__1_0.distcp"] < 2
        state = torch.load(folder / "state.pt", weights_only=True)
        assert not state.keys() & {"model", "average", "optimizer.exp_avg", "held"}
        assert state["best"]["weights"].keys() > set()
    assert len(_checkpoints(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["torn", "altered", "gone", "its place"])
def test_a_training_with_a_damaged_part_goes_on_from_the_checkpoint_before(
    crew: Crew, undisturbed: dict[str, Tensor], tmp_path: Path, damage: str
) -> None:
    crew.run(2, keep, SHARDED, tmp_path, RECIPE, NEVER_S, 0.0, None, 2)
    _, newest = _checkpoints(tmp_path)
    part = newest / (".metadata" if damage == "its place" else "__1_0.distcp")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes(content[:-10] if damage == "torn" else content)
    resumed = crew.run(2, keep, SHARDED, tmp_path, RECIPE)[0]
    assert resumed.began == Position(2)
    assert _same(resumed, undisturbed)
    started = [event for event in _run_folder(tmp_path).ledger.events() if event["kind"] == "started"]
    assert list(started[-1]["rejected"]) == [newest.name]
    assert part.name in started[-1]["rejected"][newest.name]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2)])
def test_a_training_goes_on_with_another_number_of_processes(
    crew: Crew, tmp_path: Path, before: int, after: int
) -> None:
    whole = keep(0, 1, SHARDED, tmp_path / "whole", ENCODER)
    storage = tmp_path / "changed"
    crew.run(before, keep, SHARDED, storage, ENCODER, NEVER_S, 0.0, None, 1)
    assert [len(list(path.glob("*.distcp"))) for path in _checkpoints(storage)] == [before if before > 1 else 0]
    resumed = crew.run(after, keep, SHARDED, storage, ENCODER)[0]
    assert resumed.began == Position(2)
    close(resumed.weights, whole.weights)
    assert [record.epoch for record in resumed.records] == [1, 2]
    assert [len(list(path.glob("*.distcp"))) for path in _checkpoints(storage)][-1] == (after if after > 1 else 0)


def test_a_part_that_cannot_be_written_fails_the_checkpoint_for_all(crew: Crew, tmp_path: Path) -> None:
    store = CheckpointStore(Folder(str(tmp_path)))
    claim = store.begin_attempt("test")
    assert crew.run(2, save_where, tmp_path, claim, False) == ["saved", "saved"]
    full = crew.run(2, save_where, tmp_path, store.begin_attempt("test"), True)
    crew.dismiss()  # the disk of one of them stays full
    assert full == ["OSError: [Errno 28] No space left on device"] * 2
    found = store.newest()
    assert found is not None
    assert found.checkpoint.attempt == claim.number
    assert len(store.passed_over) == 1


def test_processes_that_were_overtaken_leave_nothing_behind(crew: Crew, tmp_path: Path) -> None:
    store = CheckpointStore(Folder(str(tmp_path)))
    claim = store.begin_attempt("one")
    store.begin_attempt("other")
    said = crew.run(2, save_where, tmp_path, claim, False)
    assert said[0] == said[1]
    assert "SupersededError" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["attempts"]
