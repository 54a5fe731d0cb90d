import dataclasses
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from tests.toys import image_recipe
from tests.training.s3_server import make_bucket
from training.checkpoint.store import Checkpoint, CheckpointError, CheckpointStore, SupersededError
from training.launch.job import Compute, Observation, Trained, TrainJob, identity_of
from training.launch.run import run_training
from training.launch.run_folder import RunFolder
from training.loop.losses import Loss
from training.loop.training import EpochRecord, Training, TrainingError
from training.loop.watcher import Watcher
from training.registry import Registry, RegistryError, Run
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


@pytest.mark.slow
@pytest.mark.parametrize("has_gpu", [True, False])
def test_what_the_gpu_did_is_logged_where_there_is_one(
    registry: Registry, run: Run, here: Compute, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    figures = {"gpu_utilization": 0.9, "gpu_memory_bytes": 2e9} if has_gpu else {}
    monkeypatch.setattr("training.observe.gpu.gpu_figures", lambda: figures)
    trained = run_training(_job(tracking_uri=registry.tracking_uri, run_id=run.run_id), here)
    client = MlflowClient(registry.tracking_uri)
    for name in ("gpu_utilization", "gpu_memory_bytes"):
        history = client.get_metric_history(run.run_id, name)
        assert [(entry.step, entry.value) for entry in history] == [
            (epoch, figures[name]) for epoch in range(1, 5) if figures
        ]
        assert {getattr(record, name) for record in trained.records} == {figures.get(name)}


@pytest.mark.slow
def test_epochs_that_mlflow_did_not_take_are_told_later(
    registry: Registry, run: Run, here: Compute, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    absent = [RegistryError("no MLflow server answers")] * 2

    def connect(tracking_uri: str) -> Registry:
        if absent:
            raise absent.pop()
        return Registry(tracking_uri)

    monkeypatch.setattr("training.launch.epoch_log.Registry", connect)
    trained = run_training(_job(tracking_uri=registry.tracking_uri, run_id=run.run_id), here)
    assert "no MLflow server answers" in caplog.text
    history = MlflowClient(registry.tracking_uri).get_metric_history(run.run_id, "val_loss")
    assert [(entry.step, entry.value) for entry in history] == [(r.epoch, r.val_loss) for r in trained.records]


@pytest.mark.slow
def test_an_epoch_is_told_once_whatever_befell_the_training(registry: Registry, run: Run, here: Compute) -> None:
    """The first two are told by nobody, the third again by who goes on from before it."""
    told = {"tracking_uri": registry.tracking_uri, "run_id": run.run_id}
    run_training(_job(until_epoch=2), here)
    run.log_metrics({"val_loss": 0.5}, step=3)
    run_training(_job(**told), here)
    history = MlflowClient(registry.tracking_uri).get_metric_history(run.run_id, "val_loss")
    assert [entry.step for entry in history] == [3, 1, 2, 4]


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
    broken = _Breaking(lambda right: right * float("nan"))
    with pytest.raises(TrainingError, match=r"epoch 2, step 2: .* kept as epoch-00002-step-0000000-attempt-001 in"):
        run_training(_job(make_loss=broken), here)


class _Breaking:
    """A loss that is `wrong` in the ninth step, the third of the second epoch."""

    def __init__(self, wrong: Callable[[Tensor], Tensor]) -> None:
        self._wrong = wrong

    def __call__(self, module: nn.Module, usual: Loss) -> Loss:
        calls = []

        def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
            calls.append(1)
            right = usual(inputs, logits, labels)
            return self._wrong(right) if len(calls) == 9 else right

        return loss


def test_a_training_that_breaks_while_its_first_checkpoint_is_written_says_what_broke(
    here: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = CheckpointStore.save

    def slowly(self: CheckpointStore, *arguments: Any) -> Checkpoint:
        time.sleep(0.5)
        return save(self, *arguments)

    monkeypatch.setattr(CheckpointStore, "save", slowly)
    with pytest.raises(TrainingError, match=r"not finite .* kept as epoch-00002-step-0000000-attempt-001 in"):
        run_training(_job(make_loss=_Breaking(lambda right: right * float("nan"))), here)


def test_a_training_that_breaks_with_nothing_whole_says_what_broke(
    here: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(right: Tensor) -> Tensor:
        for state in tmp_path.glob("*/checkpoints/epoch-*/state.pt"):
            state.write_bytes(b"torn")
        return right * float("nan")

    save, saved = CheckpointStore.save, threading.Event()

    def told(self: CheckpointStore, *arguments: Any) -> Checkpoint:
        made = save(self, *arguments)
        saved.set()
        return made

    monkeypatch.setattr(CheckpointStore, "save", told)
    broken = _Breaking(lambda right: torn(right) if saved.wait(10) else right)
    with pytest.raises(TrainingError, match=r"not finite .* is not to be found: no checkpoint in"):
        run_training(_job(make_loss=broken), here)


def test_what_ended_a_training_is_told_when_it_goes_on(here: Compute) -> None:
    def fail(right: Tensor) -> Tensor:
        raise RuntimeError("the loss was not made for this\nat all")

    with pytest.raises(RuntimeError, match="not made for this"):
        run_training(_job(make_loss=_Breaking(fail)), here)
    (recovery,) = run_training(_job(), here).recoveries
    assert recovery.cause == "RuntimeError: the loss was not made for this"
    assert (recovery.epoch, recovery.step, recovery.steps_redone) == (2, 0, 2)


def test_a_training_that_came_to_its_end_was_not_killed(here: Compute) -> None:
    run_training(_job(), here)
    assert run_training(_job(), here).recoveries == ()


def test_a_training_whose_last_state_was_not_kept_has_not_ended(
    here: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = CheckpointStore.save

    def full(self: CheckpointStore, state: Any, epoch: int, *arguments: Any) -> Checkpoint:
        if epoch == 5:
            raise OSError(28, "No space left on device")
        return save(self, state, epoch, *arguments)

    with monkeypatch.context() as patched, pytest.raises(CheckpointError, match="No space left"):
        patched.setattr(CheckpointStore, "save", full)
        run_training(_job(), here)
    assert not list(tmp_path.glob("*/events/*-finished.json"))
    trained = run_training(_job(), here)
    assert [record.epoch for record in trained.records] == [1, 2, 3, 4]
    assert "No space left" in trained.recoveries[0].cause


class _OvertakenIn(Watcher):
    """The same command is started elsewhere in the second epoch, and ends there where it `clears`."""

    def __init__(self, folder: RunFolder, clears: bool) -> None:
        self._folder, self._clears = folder, clears

    def epoch(self, training: Training, record: EpochRecord) -> None:
        if record.epoch != 2:
            return
        while (found := self._folder.store.newest()) is None or found.checkpoint.epoch != 3:
            time.sleep(0.01)  # until this epoch is kept
        self._folder.store.begin_attempt()
        if self._clears:
            self._folder.clear()


@pytest.mark.parametrize(("clears", "message"), [(False, "overtaken by attempt 2"), (True, "ended elsewhere")])
def test_the_training_that_was_overtaken_ends_and_leaves_the_other_ones_alone(
    here: Compute, tmp_path: Path, clears: bool, message: str
) -> None:
    folder = RunFolder(here.folder(_job()))
    job = _job(make_watchers=lambda worker: [_OvertakenIn(folder, clears)])
    with pytest.raises(SupersededError, match=message):
        run_training(job, here)
    if clears:
        assert not list(tmp_path.rglob("*.json"))
    else:
        assert "overtaken by attempt 2" in folder.ledger.events()[-1]["cause"]


def test_as_many_checkpoints_stay_as_are_asked_for(here: Compute, tmp_path: Path) -> None:
    run_training(_job(), dataclasses.replace(here, keep_last=3))
    kept = sorted(path.name for path in tmp_path.glob("*/checkpoints/epoch-*"))
    assert [name.split("-")[1] for name in kept] == ["00003", "00004", "00005"]


@pytest.mark.parametrize("until_epoch", [None, 3])
def test_workers_of_ray_that_end_early_without_a_word_have_not_finished(
    here: Compute, monkeypatch: pytest.MonkeyPatch, until_epoch: int | None
) -> None:
    def until(epoch: int | None) -> Callable[[TrainJob, Compute], None]:
        return lambda job, compute: cast(
            None, run_training(dataclasses.replace(job, until_epoch=epoch), dataclasses.replace(compute, local=True))
        )

    compute, job = dataclasses.replace(here, local=False), _job(until_epoch=until_epoch)
    monkeypatch.setattr("training.launch.on_ray.train_on_ray", until(2))
    with pytest.raises(TrainingError, match=r"what they kept in .* is epoch 3, step 0, not the end"):
        run_training(job, compute)
    monkeypatch.setattr("training.launch.on_ray.train_on_ray", until(until_epoch))
    assert len(run_training(job, compute).records) == (until_epoch or 4)


@pytest.mark.parametrize("local", [True, False])
def test_what_an_object_store_cannot_take_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    monkeypatch.setattr("training.launch.run_folder.RunFolder.__init__", lambda *a: pytest.fail("it started"))
    observation = Observation(samples=True, profile=True)
    with pytest.raises(ValueError, match=r"samples and profile would be written .* s3://bucket/x is no file system"):
        run_training(_job(observation=observation), Compute(local=local, storage="s3://bucket/x"))


@pytest.mark.slow
def test_a_training_kept_on_s3_goes_on_and_ends_as_the_undisturbed_one(here: Compute, s3: str) -> None:
    make_bucket("kept")
    far = dataclasses.replace(here, storage="s3://kept/trainings")
    run_training(_job("far", until_epoch=2), far)
    trained = run_training(_job("far"), far)
    assert _same(trained, run_training(_job("near"), here))
    assert trained.breakdown is not None
    folder = RunFolder(far.folder(_job("far")))
    folder.clear()
    assert folder.store.newest() is None


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"workers": 0}, "0 workers of 1 threads"),
        ({"threads": -1}, "1 workers of -1 threads"),
        ({"workers": 2, "local": True}, "2 workers need Ray or torchrun"),
        ({"workers": 2, "min_workers": 3}, r"min_workers is 3: it must lie in 1\.\.2"),
        ({"checkpoint_every_s": 0}, "a checkpoint every 0 s and 1 epochs"),
        ({"keep_last": 0}, "keep_last is 0"),
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
