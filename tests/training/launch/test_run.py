import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn
from torch.nn import functional

from tests.toys import image_recipe
from training.launch.job import Compute, Trained, TrainJob, identity_of
from training.launch.run import run_training
from training.loop.losses import Loss
from training.loop.training import TrainingError
from training.registry import Registry, Run
from training.task import Source


@pytest.fixture(scope="module")
def registry(mlflow_uri: str) -> Registry:
    return Registry(mlflow_uri)


@pytest.fixture
def run(registry: Registry) -> Run:
    return registry.start_run("launch", "test", {})


@pytest.fixture
def here(tmp_path: Path) -> Compute:
    return Compute(local=True, storage=str(tmp_path))


def _job(identity: str = "one", **changes: object) -> TrainJob:
    return dataclasses.replace(TrainJob(image_recipe(), Source(), "", "", identity), **changes)


def _same(one: Trained, other: Trained) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.slow
def test_training_here_logs_every_epoch_to_the_run(
    registry: Registry, run: Run, here: Compute, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = run_training(_job(tracking_uri=registry.tracking_uri, run_id=run.run_id), here)
    assert [record.epoch for record in trained.records] == [1, 2, 3, 4]
    client = MlflowClient(registry.tracking_uri)
    history = client.get_metric_history(run.run_id, "val_accuracy")
    assert [entry.value for entry in history] == [record.val_accuracy for record in trained.records]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 4
    assert "val accuracy" in lines[-1]
    assert lines[-1].endswith("0 s left")


def test_the_same_job_gives_the_same_weights(here: Compute) -> None:
    torch.manual_seed(1)
    first = run_training(_job("one"), here)
    torch.manual_seed(2)
    assert _same(run_training(_job("other"), here), first)


def test_a_training_says_where_its_time_went(here: Compute, capsys: pytest.CaptureFixture[str]) -> None:
    breakdown = run_training(_job(), here).breakdown
    assert breakdown is not None
    assert breakdown.steps_s > 0
    assert breakdown.verdict() in capsys.readouterr().out


def test_a_training_that_ended_is_not_trained_again(here: Compute, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_training(_job(), here)
    capsys.readouterr()
    assert _same(run_training(_job(), here), first)
    out = capsys.readouterr().out
    assert "going on at epoch 5, step 0" in out
    assert "val accuracy" not in out


class _Halved:
    """Makes a loss that a job carries to its workers."""

    def __call__(self, module: nn.Module, usual: Loss) -> Loss:
        def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
            return usual(inputs, logits, labels) / 2

        return loss


def test_a_job_carries_its_loss(here: Compute) -> None:
    recipe = dataclasses.replace(image_recipe(), epochs=1)
    plain = run_training(_job("plain", recipe=recipe), here)
    job = pickle.loads(pickle.dumps(_job("halved", recipe=recipe, make_loss=_Halved())))
    # The same gradients up to a factor: AdamW's steps are the same, and the loss that is told is half.
    assert run_training(job, here).records[0].train_loss == pytest.approx(plain.records[0].train_loss / 2, rel=0.05)


class Beside(nn.Module):
    """A module beside a parameter that its loss alone needs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.doubt = inner, nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.inner(inputs)
        return logits


class _Doubting:
    def wrap(self, module: nn.Module) -> nn.Module:
        return Beside(module)

    def __call__(self, module: nn.Module, usual: Loss) -> Loss:
        assert isinstance(module, Beside)
        doubt = module.doubt
        return lambda inputs, logits, labels: usual(inputs, logits, labels) * torch.exp(-doubt) + doubt


def test_what_is_wrapped_around_a_module_is_trained_kept_and_resumed_with_it(here: Compute) -> None:
    doubting = _Doubting()
    job = pickle.loads(pickle.dumps(_job("whole", wrap=doubting.wrap, make_loss=doubting)))
    whole = run_training(job, here)
    assert float(whole.weights["doubt"]) != 0
    assert all(name == "doubt" or name.startswith("inner.") for name in whole.weights)
    cut = dataclasses.replace(job, identity="cut", until_epoch=2)
    run_training(cut, here)
    resumed = run_training(dataclasses.replace(cut, until_epoch=None), here)
    assert _same(resumed, whole)


def test_a_training_that_breaks_names_its_last_good_checkpoint(here: Compute) -> None:
    calls = []

    class Breaking:
        def __call__(self, module: nn.Module, usual: Loss) -> Loss:
            def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
                calls.append(1)
                return functional.cross_entropy(logits, labels) * (float("nan") if len(calls) == 9 else 1.0)

            return loss

    with pytest.raises(TrainingError, match=r"epoch 2, step 2: .* kept as epoch-00002-step-0000000-attempt-001 in"):
        run_training(_job(make_loss=Breaking()), here)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"workers": 0}, "0 workers of 1 threads"),
        ({"threads": -1}, "1 workers of -1 threads"),
        ({"workers": 2, "local": True}, "2 workers need Ray or torchrun"),
        ({"workers": 2, "min_workers": 3}, r"min_workers is 3: it must lie in 1\.\.2"),
        ({"checkpoint_every_s": 0}, "a checkpoint every 0 s and 1 epochs"),
    ],
)
def test_an_impossible_compute_is_refused(compute: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Compute(**compute)


def test_a_training_is_known_by_recipe_data_and_whatever_else_made_it() -> None:
    recipe = image_recipe()
    same = identity_of(image_recipe(), "data")
    assert identity_of(recipe, "data") == same
    assert identity_of(recipe, "other data") != same
    assert identity_of(recipe, "data", "teacher") != same
    assert identity_of(dataclasses.replace(recipe, seed=1), "data") != same
