import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.toys import IMAGES, image_recipe, images, texts
from training.checkpoint.folder import Folder
from training.checkpoint.store import CheckpointStore
from training.loop.batches import Batch
from training.loop.fit import fit, validate
from training.loop.step import Stepper
from training.loop.training import EpochRecord, Position, Training, TrainingError, smaller_part
from training.loop.watcher import Watcher
from training.loop.worker import Worker
from training.models.architecture import Architecture, build
from training.models.untrained import untrained
from training.parallel.strategy import Strategy
from training.recipe import Augmentation, Optimizer, Recipe, Schedule
from training.task import Source, Split, Task

DENSE = Architecture("tests.toys:dense", {"hidden": 16})


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


def _module(recipe: Recipe, task: Task) -> nn.Module:
    torch.manual_seed(recipe.seed)
    return build(recipe.architecture, task.encoding)


class _Recorder(Watcher):
    """Keeps the record and the state of each epoch, and the state after each step it is asked for."""

    def __init__(self, steps: Sequence[int] = (), stop_after: int | None = None) -> None:
        self.records: list[EpochRecord] = []
        self.states: list[dict[str, Any]] = []
        self.steps: dict[int, dict[str, Any]] = {}
        self.read: list[tuple[int, int, list[int]]] = []
        self._asked, self._stop_after = steps, stop_after

    def step(self, training: Training, batch: Batch) -> None:
        self.read.append((training.position.epoch, training.position.step, batch.ids.tolist()))
        if len(self.read) in self._asked:
            self.steps[len(self.read)] = copy.deepcopy(training.state())

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self.records.append(record)
        self.states.append(copy.deepcopy(training.state()))

    def wants_stop(self) -> bool:
        return len(self.read) == self._stop_after


def _fit(recipe: Recipe, task: Task, **more: Any) -> tuple[dict[str, Tensor], list[EpochRecord], list[dict[str, Any]]]:
    recorder = _Recorder()
    return _train(recipe, task, recorder, **more).best.weights, recorder.records, recorder.states


def _train(recipe: Recipe, task: Task, recorder: _Recorder, **more: Any) -> Training:
    module = more.pop("module", None) or _module(recipe, task)
    train, val = task.splits["train"], task.splits["val"]
    return fit(recipe, module, task.encoding, train, val, watchers=[recorder], **more)


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_separable_problem_is_learned(toy: Task) -> None:
    _, records, _ = _fit(image_recipe(), toy)
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert records[-1].val_accuracy > 0.95
    assert records[-1].train_loss < records[0].train_loss
    assert all(record.samples_per_s > 0 and record.seconds > 0 for record in records)


def test_texts_are_learned_too() -> None:
    task = texts(Source())
    architecture = Architecture("lstm", {"vocabulary": 40, "embedding": 8, "hidden": 8})
    recipe = dataclasses.replace(image_recipe(), architecture=architecture, epochs=6, optimizer=Optimizer(lr=3e-2))
    _, records, _ = _fit(recipe, task)
    assert records[-1].val_accuracy > 0.95


@pytest.mark.parametrize("optimizer", [Optimizer("sgd", lr=0.1), Optimizer("adamw", lr=1e-2)])
def test_the_same_seed_gives_the_same_weights_to_the_bit(toy: Task, optimizer: Optimizer) -> None:
    recipe = dataclasses.replace(
        image_recipe(),
        architecture=Architecture("convnet", {"widths": [8], "dropout": 0.3}),
        augmentation=Augmentation(shift=0.25, rotate_degrees=10),
        optimizer=optimizer,
        epochs=2,
    )
    first, _, _ = _fit(recipe, toy)
    torch.rand(100)  # what else draws from the global generator must not matter
    second, _, _ = _fit(recipe, toy)
    other, _, _ = _fit(dataclasses.replace(recipe, seed=1), toy)
    assert _same(first, second)
    assert not _same(first, other)


@pytest.mark.parametrize("optimizer", [Optimizer("sgd", lr=0.1), Optimizer("adamw", lr=1e-2)])
@pytest.mark.parametrize(("stop", "ema_decay"), [(1, 0.0), (3, 0.0), (1, 0.9), (3, 0.9)])
def test_a_resumed_training_ends_as_the_uninterrupted_one(
    toy: Task, tmp_path: Path, optimizer: Optimizer, stop: int, ema_decay: float
) -> None:
    recipe = dataclasses.replace(
        image_recipe(),
        architecture=Architecture("convnet", {"widths": [8], "dropout": 0.3}),
        augmentation=Augmentation(shift=0.25),
        optimizer=optimizer,
        ema_decay=ema_decay,
    )
    whole, records, states = _fit(recipe, toy)
    store = CheckpointStore(Folder(str(tmp_path)))
    kept = store.save(states[stop - 1], stop + 1, 0, store.begin_attempt(), 1)
    torch.manual_seed(99)
    fresh = build(recipe.architecture, toy.encoding)
    resumed, later, later_states = _fit(recipe, toy, module=fresh, start=store.load(kept.name)[1])
    assert _same(resumed, whole)
    assert _same(later_states[-1]["model"], states[-1]["model"])
    assert [record.epoch for record in later] == list(range(stop + 1, 5))
    assert [record.learning_rate for record in later] == [record.learning_rate for record in records[stop:]]
    assert [record["epoch"] for record in later_states[-1]["records"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 13, 23, 24])
def test_a_training_resumed_at_any_step_ends_as_the_uninterrupted_one(toy: Task, stop: int) -> None:
    recipe = dataclasses.replace(
        image_recipe(),
        architecture=Architecture("convnet", {"widths": [8], "dropout": 0.3}),
        augmentation=Augmentation(shift=0.25, rotate_degrees=5),
        ema_decay=0.9,
    )
    whole = _Recorder(steps=[stop])
    undisturbed = _train(recipe, toy, whole)
    torch.manual_seed(99)
    rest = _Recorder()
    resumed = _train(recipe, toy, rest, module=build(recipe.architecture, toy.encoding), start=whole.steps[stop])
    assert _same(resumed.best.weights, undisturbed.best.weights)
    assert _same(rest.states[-1]["model"], whole.states[-1]["model"])
    assert rest.read == whole.read[stop:]
    for one, other in zip(resumed.records, undisturbed.records, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-6)
        assert one.val_loss == other.val_loss


CHOICES: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": Optimizer("muon", lr=0.02)},
    "one cycle": {"schedule": Schedule("one_cycle"), "optimizer": Optimizer("sgd", lr=0.05)},
    "plateau": {"schedule": Schedule("plateau", patience=0)},
    "fp16": {"precision": "fp16"},
    "mixed rows": {"augmentation": Augmentation(mixup=0.4, cutmix=0.5, erase=0.5)},
    "drawn classes": {"class_balance": "sampling", "focal_gamma": 2.0},
    "weighed classes": {"class_balance": "weights", "deterministic": True},
    "micro-batches": {"micro_batch": 7, "ema_decay": 0.8},
    "recomputed": {"recompute_activations": True, "early_stopping": 3},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_whatever_a_recipe_chooses_is_the_same_after_a_resume_in_the_middle_of_an_epoch(toy: Task, choice: str) -> None:
    convnet = Architecture("convnet", {"widths": [8, 8], "dropout": 0.3})
    recipe = dataclasses.replace(image_recipe(), architecture=convnet, **CHOICES[choice])
    whole, rest = _Recorder(steps=[9]), _Recorder()
    undisturbed = _train(recipe, toy, whole, module=untrained(recipe, toy.encoding))
    other = untrained(dataclasses.replace(recipe, seed=99), toy.encoding)
    resumed = _train(recipe, toy, rest, module=other, start=whole.steps[9])
    assert _same(rest.states[-1]["model"], whole.states[-1]["model"])
    assert _same(resumed.best.weights, undisturbed.best.weights)
    assert rest.read == whole.read[9:]
    assert [one.learning_rate for one in resumed.records] == [one.learning_rate for one in undisturbed.records]


def test_a_deterministic_training_asks_torch_for_it_and_no_longer(toy: Task) -> None:
    class Asks(Watcher):
        def step(self, training: Training, batch: Batch) -> None:
            asked.append(torch.are_deterministic_algorithms_enabled())

    asked: list[bool] = []
    recipe = dataclasses.replace(image_recipe(), epochs=1)
    train, val = toy.splits["train"], toy.splits["val"]
    for deterministic in (True, False):
        chosen = dataclasses.replace(recipe, deterministic=deterministic)
        fit(chosen, _module(recipe, toy), toy.encoding, train, val, watchers=[Asks()])
    assert asked == [True] * 6 + [False] * 6
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_a_compiled_model_trains_as_it_does_without(toy: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as far as the graph: what a backend makes of it is the backend's."""
    compiled = []
    compile_model = torch.compile

    def without_a_compiler(model: nn.Module) -> Any:
        compiled.append(model)
        return compile_model(model, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    recipe = dataclasses.replace(image_recipe(), epochs=1)
    plain, _, _ = _fit(recipe, toy)
    weights, _, _ = _fit(dataclasses.replace(recipe, compile=True), toy)
    assert len(compiled) == 1
    assert weights.keys() == plain.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)


def test_validation_takes_no_more_rows_at_once_than_training(toy: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    answer = Strategy.logits

    def logits(self: Strategy, module: nn.Module, inputs: Tensor) -> Tensor:
        seen.append(len(inputs))
        return answer(self, module, inputs)

    monkeypatch.setattr(Strategy, "logits", logits)
    recipe = dataclasses.replace(image_recipe(), architecture=DENSE)
    whole, few = (_fit(dataclasses.replace(recipe, micro_batch=rows), toy)[1] for rows in (0, 4))
    assert max(seen[-len(toy.splits["val"]) // 4 :]) == 4
    assert few[0].val_loss == pytest.approx(whole[0].val_loss, rel=1e-4)
    assert few[-1].val_accuracy == pytest.approx(whole[-1].val_accuracy, abs=0.03)


def test_a_training_stops_between_two_steps_when_it_is_asked_to(toy: Task) -> None:
    recorder = _Recorder(stop_after=8)
    training = _train(image_recipe(), toy, recorder)
    assert not training.finished
    assert training.position == Position(epoch=2, step=2)
    assert len(recorder.records) == 1


def test_a_training_goes_as_far_as_the_epoch_it_is_told(toy: Task) -> None:
    whole, _, _ = _fit(image_recipe(), toy)
    first = _train(image_recipe(), toy, _Recorder(), until_epoch=2)
    assert first.position == Position(epoch=3)
    assert not first.finished
    assert _same(_train(image_recipe(), toy, _Recorder(), start=first.state()).best.weights, whole)


def test_a_training_that_no_longer_gets_better_ends_early(toy: Task) -> None:
    recipe = dataclasses.replace(image_recipe(), epochs=30, early_stopping=2, schedule=Schedule("constant", 0.0))
    recorder = _Recorder()
    training = _train(recipe, toy, recorder)
    assert training.finished
    accuracies = [record.val_accuracy for record in recorder.records]
    assert len(accuracies) == accuracies.index(max(accuracies)) + 3 < 30
    assert _train(recipe, toy, _Recorder(), start=training.state()).records == training.records


@pytest.mark.parametrize("micro_batch", [1, 7, 19, 20, 50])
def test_micro_batches_give_the_weights_of_whole_ones(toy: Task, micro_batch: int) -> None:
    recipe = dataclasses.replace(image_recipe(), architecture=DENSE, optimizer=Optimizer("sgd", lr=0.05))
    whole, records, _ = _fit(recipe, toy)
    parts, records_of_parts, _ = _fit(dataclasses.replace(recipe, micro_batch=micro_batch), toy)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)
    assert records_of_parts[-1].train_loss == pytest.approx(records[-1].train_loss, rel=1e-4)


class _SmallMemory(nn.Module):
    """A model that cannot hold more than so many rows."""

    def __init__(self, module: nn.Module, rows: int) -> None:
        super().__init__()
        self.module, self.rows, self.seen = module, rows, list[int]()

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.seen.append(len(inputs))
            if len(inputs) > self.rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
        logits: Tensor = self.module(inputs)
        return logits


def test_a_batch_that_does_not_fit_memory_is_halved_until_it_does(toy: Task) -> None:
    recipe = dataclasses.replace(image_recipe(), architecture=DENSE, optimizer=Optimizer("sgd", lr=0.05))
    whole, _, _ = _fit(recipe, toy)
    module = _SmallMemory(_module(recipe, toy), rows=6)
    weights, _, _ = _fit(recipe, toy, module=module)
    assert module.seen[:6] == [20, 10, 5, 5, 5, 5]
    assert max(module.seen[2:]) == 5
    for name, tensor in whole.items():
        torch.testing.assert_close(weights[f"module.{name}"], tensor, rtol=1e-4, atol=1e-5)


def test_who_goes_on_takes_no_more_rows_at_once_than_memory_held(toy: Task) -> None:
    recipe = dataclasses.replace(image_recipe(), architecture=DENSE, optimizer=Optimizer("sgd", lr=0.05))
    recorder = _Recorder(steps=[3])
    _train(recipe, toy, recorder, module=_SmallMemory(_module(recipe, toy), rows=6))
    state = recorder.steps[3]
    resumed = _SmallMemory(_module(recipe, toy), rows=6)
    _train(recipe, toy, _Recorder(), module=resumed, start=state)
    assert set(resumed.seen) == {5}
    # Checkpoints of earlier versions do not say it.
    del state["micro_batch"]
    searching = _SmallMemory(_module(recipe, toy), rows=6)
    _train(recipe, toy, _Recorder(), module=searching, start=state)
    assert searching.seen[:3] == [20, 10, 5]


@pytest.mark.parametrize(("one", "other", "smaller"), [(0, 0, 0), (0, 5, 5), (5, 0, 5), (7, 5, 5)])
def test_a_micro_batch_of_0_is_the_whole(one: int, other: int, smaller: int) -> None:
    assert smaller_part(one, other) == smaller


def test_a_row_that_does_not_fit_memory_ends_the_training(toy: Task) -> None:
    recipe = dataclasses.replace(image_recipe(), architecture=DENSE)
    with pytest.raises(
        TrainingError, match="1 rows a worker do not fit its memory at epoch 1, step 0: use a smaller model"
    ):
        _fit(recipe, toy, module=_SmallMemory(_module(recipe, toy), rows=0))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_learns_and_resumes(toy: Task, precision: Any) -> None:
    recipe = dataclasses.replace(image_recipe(), precision=precision)
    recorder = _Recorder(steps=[8])
    training = _train(recipe, toy, recorder)
    assert recorder.records[-1].val_accuracy > 0.9
    assert _same(_train(recipe, toy, _Recorder(), start=recorder.steps[8]).best.weights, training.best.weights)


def test_a_training_resumed_after_its_last_epoch_gives_its_best_weights(toy: Task) -> None:
    whole, _, states = _fit(image_recipe(), toy)
    again, records, _ = _fit(image_recipe(), toy, start=states[-1])
    assert _same(again, whole)
    assert records == []


def test_the_weights_are_those_of_the_best_epoch(toy: Task) -> None:
    # Without a schedule a far too high rate makes the accuracy jump about.
    recipe = dataclasses.replace(
        image_recipe(), optimizer=Optimizer("sgd", lr=3.0, momentum=0.0), schedule=Schedule("constant", 0.0), epochs=8
    )
    weights, records, states = _fit(recipe, toy)
    best = max(record.val_accuracy for record in records)
    assert records[-1].val_accuracy < best
    module = _module(recipe, toy)
    module.load_state_dict(weights)
    assert validate(module, toy.encoding, toy.splits["val"], Strategy(image_recipe(), Worker()))[1] == best
    assert any(
        record.val_accuracy == best and _same(weights, s["model"]) for record, s in zip(records, states, strict=True)
    )


def test_the_rate_warms_up_to_its_peak_and_falls_to_zero(toy: Task) -> None:
    recipe = dataclasses.replace(image_recipe(), epochs=10, schedule=Schedule("cosine", warmup=0.3))
    _, records, _ = _fit(recipe, toy)
    rates = [record.learning_rate for record in records]
    assert rates[:3] == sorted(rates[:3])
    assert rates[2] == pytest.approx(recipe.optimizer.lr)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def _averaging() -> Recipe:
    """A recipe whose model has running statistics, and whose weights still move in the last epoch."""
    architecture = Architecture("convnet", {"widths": [8], "dropout": 0.3})
    return dataclasses.replace(
        image_recipe(), architecture=architecture, schedule=Schedule("constant", 0.0), ema_decay=0.9
    )


def test_averaged_weights_are_the_moving_mean_of_those_of_each_step(toy: Task) -> None:
    recipe = dataclasses.replace(_averaging(), epochs=1)
    module = _module(recipe, toy)
    seen: list[dict[str, Tensor]] = []
    # A forward pass in training sees the weights that the step before it left.
    module.register_forward_pre_hook(
        lambda module, inputs: seen.append(copy.deepcopy(module.state_dict())) if module.training else None
    )
    weights, _, states = _fit(recipe, toy, module=module)
    steps = [*seen[1:], states[-1]["model"]]
    expected = dict(steps[0])
    for number, now in enumerate(steps[1:], start=1):
        decay = min(0.9, (1 + number) / (10 + number))
        expected = {name: decay * mean + (1 - decay) * now[name] for name, mean in expected.items()}
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name] if name in parameters else steps[-1][name])
    assert not _same(weights, steps[-1])


def test_averaged_weights_are_what_is_validated(toy: Task) -> None:
    weights, records, _ = _fit(_averaging(), toy)
    module = _module(_averaging(), toy)
    module.load_state_dict(weights)
    found = validate(module, toy.encoding, toy.splits["val"], Strategy(_averaging(), Worker()))
    assert found[1] == max(record.val_accuracy for record in records)


def test_averaging_leaves_the_training_itself_as_it_is(toy: Task) -> None:
    _, averaged, averaged_states = _fit(_averaging(), toy)
    _, plain, plain_states = _fit(dataclasses.replace(_averaging(), ema_decay=0.0), toy)
    assert _same(averaged_states[-1]["model"], plain_states[-1]["model"])
    assert [record.train_loss for record in averaged] == [record.train_loss for record in plain]


def test_texts_in_batches_by_length_are_learned_with_less_padding() -> None:
    task = texts(Source())
    architecture = Architecture("lstm", {"vocabulary": 40, "embedding": 8, "hidden": 8})
    recipe = dataclasses.replace(image_recipe(), architecture=architecture, epochs=6, optimizer=Optimizer(lr=3e-2))

    def trained(recipe: Recipe) -> tuple[int, list[EpochRecord]]:
        read = []

        def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
            read.append(inputs.numel())
            return functional.cross_entropy(logits, labels)

        _, records, _ = _fit(recipe, task, loss=loss)
        return sum(read), records

    mixed, _ = trained(recipe)
    grouped, records = trained(dataclasses.replace(recipe, batch_by_length=True))
    assert grouped < mixed
    assert records[-1].val_accuracy > 0.95


def test_images_in_batches_by_length_are_refused(toy: Task) -> None:
    with pytest.raises(ValueError, match="batch_by_length is for texts, not for inputs of kind 'image': leave it out"):
        _fit(dataclasses.replace(image_recipe(), batch_by_length=True), toy)


def test_validation_is_exact_over_several_batches(toy: Task) -> None:
    module = _module(image_recipe(), toy).eval()
    split = Split(np.tile(toy.splits["val"].inputs, (9, 1, 1, 1)), np.tile(toy.splits["val"].labels, 9))
    loss, accuracy = validate(module, IMAGES, split, Strategy(image_recipe(), Worker()))
    with torch.inference_mode():
        logits = module(torch.from_numpy(split.inputs))
    labels = torch.from_numpy(split.labels)
    assert loss == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_a_loss_of_ones_own_sees_inputs_logits_and_labels(toy: Task) -> None:
    seen = []

    def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        seen.append((inputs.dtype, tuple(inputs.shape), tuple(logits.shape), tuple(labels.shape)))
        return functional.cross_entropy(logits, labels)

    _fit(dataclasses.replace(image_recipe(), epochs=1), toy, loss=loss)
    assert seen == [(torch.uint8, (20, 1, 4, 4), (20, 3), (20,))] * 6


def test_label_smoothing_changes_the_loss(toy: Task) -> None:
    recipe = dataclasses.replace(image_recipe(), epochs=1)
    _, plain, _ = _fit(recipe, toy)
    _, smooth, _ = _fit(dataclasses.replace(recipe, label_smoothing=0.3), toy)
    assert smooth[0].train_loss > plain[0].train_loss + 0.05


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(toy: Task, bad: float) -> None:
    calls = []

    def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return functional.cross_entropy(logits, labels) * (bad if len(calls) == 9 else 1.0)

    with pytest.raises(TrainingError, match=r"not finite at epoch 2, step 2: lower optimizer\.lr \(now 0\.01\)"):
        _fit(image_recipe(), toy, loss=loss)


@pytest.mark.parametrize("looked_at", ["the end of the epoch", "a step"])
def test_a_gradient_that_is_looked_at_later_is_still_named_by_its_own_step(
    toy: Task, monkeypatch: pytest.MonkeyPatch, looked_at: str
) -> None:
    """As on a GPU, which is not waited for after every step, and by who keeps the state between two steps."""

    def count(stepper: Stepper, norm: Tensor) -> None:
        stepper._skipped = torch.where(torch.isfinite(norm), 0, stepper._skipped + 1)

    class Looks(Watcher):
        def step(self, training: Training, batch: Batch) -> None:
            if looked_at == "a step" and training.position.step == 5:
                training.require_finite()

    calls = []

    def loss(inputs: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return functional.cross_entropy(logits, labels) * (float("nan") if len(calls) == 9 else 1.0)

    monkeypatch.setattr(Stepper, "_count_skipped", count)
    module, train, val = _module(image_recipe(), toy), toy.splits["train"], toy.splits["val"]
    with pytest.raises(TrainingError, match=r"not finite at epoch 2, step 2: "):
        fit(image_recipe(), module, toy.encoding, train, val, loss=loss, watchers=[Looks()])


def test_fewer_rows_than_a_batch_are_trained_on(toy: Task) -> None:
    few = Split(toy.splits["train"].inputs[:7], toy.splits["train"].labels[:7])
    _, records, _ = _fit(image_recipe(), dataclasses.replace(toy, splits={**toy.splits, "train": few}))
    assert len(records) == 4


def test_more_workers_than_rows_a_step_are_refused(toy: Task) -> None:
    recipe = dataclasses.replace(image_recipe(), batch_size=2)
    with pytest.raises(ValueError, match="a step of 2 rows cannot be shared by 3 workers"):
        _fit(recipe, toy, worker=Worker(rank=0, world_size=3))
