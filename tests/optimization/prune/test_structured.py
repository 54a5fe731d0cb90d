"""The whole pass on digits: cut, trained again by the loop that every training goes through, written as data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from optimization.distill.distillation import Distillation
from optimization.distill.parameters import Distill
from optimization.distill.teacher import TeacherPlace
from optimization.prune import fine_tune as fine_tune_module
from optimization.prune.accuracy import accuracy_of
from optimization.prune.fine_tune import School
from optimization.prune.group import PruneError
from optimization.prune.settings import FineTune, Prune
from optimization.prune.structured import Pruned, prune
from tests.optimization.prune.conftest import Trained
from tests.toys import digits_recipe
from training.artifact import load_artifact
from training.launch.job import Compute, TrainJob
from training.launch.run import run_training
from training.models.sizes import sizes_of
from training.module import load_module
from training.task import Source

pytestmark = pytest.mark.slow


@pytest.fixture
def school(tmp_path: Path) -> School:
    return School(digits_recipe(), Source(), Compute(local=True, storage=str(tmp_path / "store")))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[TrainJob]:
    """Every job that is trained meanwhile."""
    seen = []

    def noted(job: TrainJob, compute: Compute) -> object:
        seen.append(job)
        return run_training(job, compute)

    monkeypatch.setattr(fine_tune_module, "run_training", noted)
    return seen


def test_a_pruned_model_learns_again_and_reloads_from_data_alone(
    digits: Trained, school: School, tmp_path: Path, jobs: list[TrainJob]
) -> None:
    settings = Prune(amount=0.6, fine_tune=FineTune(epochs=3, lr_share=0.5))
    made = prune(digits.artifact, digits.task, settings, school, tmp_path / "out")
    again = load_artifact(tmp_path / "out" / "pruned")
    assert again == made.artifact
    assert again.manifest.parent == digits.artifact.digest
    assert (again.manifest.format, again.manifest.variant) == ("torch", "pruned")
    module = load_module(again)
    (last,) = made.rounds
    assert last.counts.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert last.counts.parameters < 0.6 * made.counts.parameters
    assert last.counts.macs < made.counts.macs
    assert again.size_bytes < 0.6 * digits.artifact.size_bytes
    assert all(width % 8 == 0 for width in last.widths.values())
    val = digits.task.splits["val"]
    assert last.accuracy_tuned == accuracy_of(module, val)
    assert last.accuracy_cut < last.accuracy_tuned, "what was cut must learn again"
    assert last.accuracy_tuned > made.accuracy - 0.1
    (job,) = jobs
    assert job.recipe.architecture == again.manifest.architecture
    assert (job.recipe.epochs, job.recipe.optimizer.lr) == (3, 0.5 * school.recipe.optimizer.lr)
    assert job.make_loss is None


def test_a_model_without_a_block_learns_again_and_reloads_from_data_alone(
    digits: Trained, school: School, tmp_path: Path, jobs: list[TrainJob]
) -> None:
    settings = Prune(amount=0.9, unit="blocks", fine_tune=FineTune(epochs=3, lr_share=0.5))
    made = prune(digits.artifact, digits.task, settings, school, tmp_path)
    again = load_artifact(tmp_path / "pruned")
    (last,) = made.rounds
    assert again.manifest.architecture is not None and again.manifest.architecture.dropped == ("2",)
    assert (made.widths, last.widths) == ({"2": 1}, {"2": 0})
    assert last.counts.macs < made.counts.macs
    assert last.accuracy_tuned == accuracy_of(load_module(again), digits.task.splits["val"])
    assert last.accuracy_cut < last.accuracy_tuned
    assert last.accuracy_tuned > made.accuracy - 0.1
    assert [job.recipe.architecture for job in jobs] == [again.manifest.architecture]


def test_a_model_may_lose_channels_and_then_blocks(digits: Trained, school: School, tmp_path: Path) -> None:
    thin = prune(
        digits.artifact, digits.task, Prune(0.5, fine_tune=FineTune(epochs=0)), school, tmp_path / "first", "thin"
    ).artifact
    short = prune(
        thin, digits.task, Prune(0.9, unit="blocks", fine_tune=FineTune(epochs=0)), school, tmp_path / "second", "short"
    ).artifact
    before, after = thin.manifest.architecture, load_artifact(short.folder).manifest.architecture
    assert before is not None and after is not None
    assert after.dropped == ("2",)
    assert after.sizes == {layer: size for layer, size in before.sizes.items() if not layer.startswith("2.")}
    kept = load_module(short).state_dict()
    whole = load_module(thin).state_dict()
    assert {name for name in whole if not name.startswith("2.")} == set(kept)
    assert all(torch.equal(kept[name], whole[name]) for name in kept)


def test_without_epochs_the_weights_are_the_teachers(digits: Trained, school: School, tmp_path: Path) -> None:
    settings = Prune(amount=0.4, criterion="l2", allocation="uniform", fine_tune=FineTune(epochs=0))
    made = prune(digits.artifact, digits.task, settings, school, tmp_path, "cut")
    assert made.artifact.folder == tmp_path / "cut"
    assert made.rounds[0].accuracy_tuned is None
    assert made.metrics()["val_accuracy"] == made.rounds[0].accuracy_cut
    old, new = (load_module(artifact).state_dict() for artifact in (digits.artifact, made.artifact))
    assert old["2.first.0.weight"].shape == (16, 16, 3, 3) and new["2.first.0.weight"].shape == (8, 8, 3, 3)
    kept = {tuple(filter.flatten().tolist()) for filter in old["1.0.weight"]}
    assert all(tuple(filter.flatten().tolist()) in kept for filter in new["1.0.weight"])


def test_rounds_come_to_the_same_widths_step_by_step(
    digits: Trained, school: School, tmp_path: Path, jobs: list[TrainJob]
) -> None:
    settings = Prune(amount=0.75, allocation="uniform", round_to=1, rounds=2, fine_tune=FineTune(epochs=1))
    made = prune(digits.artifact, digits.task, settings, school, tmp_path)
    halves, quarters = (made_round.widths for made_round in made.rounds)
    assert {name: width // 2 for name, width in made.widths.items()} == halves
    assert {name: width // 4 for name, width in made.widths.items()} == quarters
    assert [job.init_from for job in jobs] == [tmp_path / "pruned-1-cut", tmp_path / "pruned-cut"]
    assert sizes_of(load_module(load_artifact(tmp_path / "pruned-1")))["2.first.0"] == (8, 8)
    assert load_artifact(tmp_path / "pruned").manifest.parent == digits.artifact.digest


def test_the_whole_model_teaches_where_it_is_asked_to(
    digits: Trained, school: School, tmp_path: Path, jobs: list[TrainJob]
) -> None:
    settings = Prune(amount=0.5, rounds=2, fine_tune=FineTune(1, learn_from="distil", temperature=3, soft_share=0.7))
    prune(digits.artifact, digits.task, settings, school, tmp_path)
    assert [job.make_loss for job in jobs] == [
        Distillation(TeacherPlace(digits.artifact.folder), Distill(temperature=3, soft_share=0.7), "fp32")
    ] * 2
    assert len({job.identity for job in jobs}) == 2


def test_the_same_pruning_makes_the_same_artifact(digits: Trained, school: School, tmp_path: Path) -> None:
    settings = Prune(amount=0.5, fine_tune=FineTune(epochs=1))
    first, second = (prune(digits.artifact, digits.task, settings, school, tmp_path / name) for name in "ab")
    assert first.artifact.digest == second.artifact.digest


def test_a_model_is_pruned_to_a_measured_speedup(digits: Trained, school: School, tmp_path: Path) -> None:
    settings = Prune(speedup=1.25, batch_size=8, round_to=4, criterion="l2", fine_tune=FineTune(epochs=0))
    made = prune(digits.artifact, digits.task, settings, school, tmp_path)
    (last,) = made.rounds
    chosen = [trial for trial in last.trials if trial.widths == last.widths]
    assert chosen and chosen[0].speedup.lower >= 1.25
    assert chosen[0].counts == last.counts
    assert min(trial.amount for trial in last.trials if trial.speedup.lower >= 1.25) == min(t.amount for t in chosen)
    said = json.loads(json.dumps(made.to_json()))
    assert said["rounds"][0]["trials"][0]["speedup"]["batch_size"] == 8
    assert said["before"]["widths"] == made.widths


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Prune(amount=0.05, round_to=16), "nothing is taken out: every width rounds to itself by round_to=16"),
        (Prune(speedup=500.0), r"the narrowest model that these settings allow is .*x as fast .*not 500\.00x"),
    ],
)
def test_what_cannot_be_pruned_as_asked_is_refused(
    digits: Trained, school: School, tmp_path: Path, settings: Prune, message: str, jobs: list[TrainJob]
) -> None:
    with pytest.raises(PruneError, match=message):
        prune(digits.artifact, digits.task, settings, school, tmp_path)
    assert not jobs


def test_a_good_criterion_beats_chance(digits: Trained, school: School, tmp_path: Path) -> None:
    def cut(name: str, **choice: object) -> Pruned:
        settings = Prune(amount=0.3, round_to=1, fine_tune=FineTune(0), **choice)  # type: ignore[arg-type]
        return prune(digits.artifact, digits.task, settings, school, tmp_path / name)

    chance = [cut(f"random-{seed}", criterion="random", seed=seed).rounds[0].accuracy_cut for seed in range(5)]
    for criterion in ("taylor", "l1"):
        assert cut(criterion, criterion=criterion).rounds[0].accuracy_cut > float(np.median(chance))


def test_pruning_leaves_the_model_it_began_with(digits: Trained, school: School, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in load_module(digits.artifact).state_dict().items()}
    prune(digits.artifact, digits.task, Prune(amount=0.5, fine_tune=FineTune(1)), school, tmp_path)
    after = load_module(load_artifact(digits.artifact.folder)).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
