"""Whole distillations of toy tasks: what is learned, what is kept, gone on with, and shared among processes."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optimization.adopt.graft import Scaling
from optimization.adopt.origin import FromOnnx
from optimization.distill.distillation import Distillation
from optimization.distill.hinted import student_weights
from optimization.distill.parameters import Distill, Hint
from optimization.distill.student import distill
from optimization.distill.teacher import TeacherPlace
from tests.optimization.adopt.graphs import MEAN, STD, model, save
from tests.optimization.distill.lessons import (
    BAG,
    CONVNET,
    LSTM,
    SMALL,
    SMALL_LSTM,
    TRANSFORMER,
    garbled,
    write_teacher,
)
from tests.toys import image_recipe, images, texts
from tests.training.parallel.crew import Crew
from training.artifact import Artifact
from training.evaluation.scores import predict_in_batches
from training.launch.job import Compute, TrainJob
from training.launch.run import run_training
from training.loop.fit import fit
from training.loop.losses import make_loss
from training.loop.worker import Worker
from training.models.architecture import Architecture, build
from training.module import load_module, predictor
from training.parallel.plan import Plan
from training.recipe import Augmentation, Optimizer, Recipe
from training.task import Source, Task

pytestmark = pytest.mark.slow

GARBLED = "tests.optimization.distill.lessons:garbled"
HINTS = (Hint("1", "1"), Hint("4", "3"))
RECIPE = dataclasses.replace(image_recipe(), architecture=SMALL, epochs=6)
TEXT_RECIPE = dataclasses.replace(image_recipe(), task="tests.toys:texts", epochs=2)


@pytest.fixture
def here(tmp_path: Path) -> Compute:
    return Compute(local=True, storage=str(tmp_path / "storage"))


@pytest.mark.parametrize("objective", ["kl", "dist"])
def test_a_student_learns_what_its_teacher_says_where_the_labels_are_wrong(
    tmp_path: Path, here: Compute, objective: str
) -> None:
    """The teacher, a graph that was not made here, is always right."""
    task = garbled(Source())
    given = FromOnnx(save(tmp_path, model()), Scaling((MEAN,), (STD,)))
    graph = given.write(tmp_path / "teacher", GARBLED, task)
    recipe = dataclasses.replace(RECIPE, task=GARBLED, architecture=CONVNET)
    accuracy = {}
    for share in (0.0, 1.0):
        parameters = Distill(soft_share=share, temperature=2.0, objective=objective)  # type: ignore[arg-type]
        folder = tmp_path / f"student-{share}"
        student = distill(TeacherPlace(graph.folder), parameters, recipe, task, Source(), here, folder)
        assert (student.manifest.parent, student.manifest.architecture) == (graph.digest, CONVNET)
        report = task.splits["report"]
        answers = predict_in_batches(predictor(load_module(student)), report.inputs).argmax(axis=1)
        accuracy[share] = float((answers == report.labels).mean())
    assert accuracy[1.0] > 0.9
    assert accuracy[0.0] < 0.5
    assert not list(Path(here.storage).iterdir())  # what was kept of the trainings went with their end


def test_a_student_with_hints_and_mixed_rows_is_kept_without_its_projections(
    toy: Task, tmp_path: Path, here: Compute
) -> None:
    teacher = write_teacher(tmp_path, toy, CONVNET)
    recipe = dataclasses.replace(RECIPE, augmentation=Augmentation(mixup=0.4, cutmix=0.4), ema_decay=0.8)
    student = distill(
        TeacherPlace(teacher.folder), Distill(hints=HINTS), recipe, toy, Source(), here, tmp_path / "student"
    )
    assert load_module(student).state_dict().keys() == build(SMALL, toy.encoding).state_dict().keys()
    assert student.manifest.parent == teacher.digest


def test_a_student_may_begin_with_weights_that_are_there(toy: Task, tmp_path: Path, here: Compute) -> None:
    teacher = write_teacher(tmp_path, toy, CONVNET)
    still = dataclasses.replace(RECIPE, architecture=CONVNET, epochs=1, optimizer=Optimizer("sgd", lr=1e-9))
    place, parameters = TeacherPlace(teacher.folder), Distill(init_from=str(teacher.folder))
    student = distill(place, parameters, still, toy, Source(), here, tmp_path / "student")
    before = load_module(teacher).state_dict()
    for name, parameter in load_module(student).named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=1e-6)


def test_hints_teach_a_layer_to_foretell_its_teachers(toy: Task, teacher: Artifact, here: Compute) -> None:
    """Taught by hints alone, the student's layers tell most of the teacher's; the projections learn too."""
    distances = {}
    for weight in (0.0, 1.0):
        distillation = Distillation(
            TeacherPlace(teacher.folder), Distill(hints=HINTS, hint_weight=weight, soft_share=0.0)
        )
        recipe = dataclasses.replace(RECIPE, epochs=20)
        job = TrainJob(recipe, Source(), "", "", f"w{weight}", wrap=distillation.wrap, make_loss=distillation)
        weights = run_training(job, here).weights
        judged = Distillation(TeacherPlace(teacher.folder), Distill(hints=HINTS, soft_share=0.0))
        hinted = judged.wrap(build(SMALL, toy.encoding))
        hinted.load_state_dict(weights)
        loss = judged(hinted, lambda inputs, logits, targets: logits.sum() * 0)
        hinted.train()
        inputs = torch.from_numpy(toy.splits["train"].inputs)
        distances[weight] = float(loss(inputs, hinted(inputs), torch.zeros(len(inputs))).detach())
    assert distances[1.0] < 0.4 < 0.8 < distances[0.0]


def test_a_training_with_hints_goes_on_to_the_same_bits(teacher: Artifact, here: Compute) -> None:
    distillation = Distillation(TeacherPlace(teacher.folder), Distill(hints=HINTS))
    recipe = dataclasses.replace(RECIPE, epochs=4, ema_decay=0.8)
    job = TrainJob(recipe, Source(), "", "", "whole", wrap=distillation.wrap, make_loss=distillation)
    whole = run_training(job, here)
    run_training(dataclasses.replace(job, identity="cut", until_epoch=2), here)
    resumed = run_training(dataclasses.replace(job, identity="cut"), here)
    assert any(name.startswith("projections.") for name in whole.weights)
    assert resumed.weights.keys() == whole.weights.keys()
    assert all(torch.equal(resumed.weights[name], whole.weights[name]) for name in whole.weights)


@pytest.mark.parametrize(
    ("taught_by", "learns"), [(TRANSFORMER, SMALL_LSTM), (LSTM, BAG), (LSTM, SMALL_LSTM)], ids=["tl", "lb", "ll"]
)
def test_texts_are_taught_across_families(
    tmp_path: Path, here: Compute, taught_by: Architecture, learns: Architecture
) -> None:
    task = texts(Source())
    teacher = write_teacher(tmp_path, task, taught_by)
    hints = (Hint("forward_lstm", "forward_lstm"),) if (taught_by, learns) == (LSTM, SMALL_LSTM) else ()
    recipe = dataclasses.replace(TEXT_RECIPE, architecture=learns)
    student = distill(
        TeacherPlace(teacher.folder), Distill(hints=hints), recipe, task, Source(), here, tmp_path / "student"
    )
    assert student.encoder().encode_texts(["storm"]) == teacher.encoder().encode_texts(["storm"])
    assert load_module(student).state_dict().keys() == build(learns, task.encoding).state_dict().keys()


def test_a_teacher_that_reads_otherwise_than_the_task_is_refused(tmp_path: Path, toy: Task, here: Compute) -> None:
    place = TeacherPlace(write_teacher(tmp_path, toy, CONVNET).folder)
    wider = dataclasses.replace(toy.encoding, labels=("a", "b", "c", "d"))
    other = dataclasses.replace(toy, encoding=wider)
    with pytest.raises(ValueError, match="a student must read as its teacher does"):
        distill(place, Distill(), RECIPE, other, Source(), here, tmp_path / "student")
    with pytest.raises(ValueError, match=r"recipe is for 'digits', the teacher is of 'tests\.toys:images'"):
        distill(place, Distill(), dataclasses.replace(RECIPE, task="digits"), toy, Source(), here, tmp_path / "s")
    words = texts(Source())
    place = TeacherPlace(write_teacher(tmp_path / "reader", words, BAG).folder)
    renewed = dataclasses.replace(words, files={"tokenizer.json": b"{}"})
    recipe = dataclasses.replace(TEXT_RECIPE, architecture=BAG)
    with pytest.raises(ValueError, match="brings another tokenizer"):
        distill(place, Distill(), recipe, renewed, Source(), here, tmp_path / "s")
    with pytest.raises(ValueError, match="the teacher has no layer 'nowhere'"):
        distill(place, Distill(hints=(Hint("nowhere", "body"),)), recipe, words, Source(), here, tmp_path / "s")
    piped = Compute(workers=2, plan=Plan(pipeline=2), storage=here.storage)
    with pytest.raises(ValueError, match="hints with pipeline 2"):
        distill(place, Distill(hints=(Hint("body", "body"),)), recipe, words, Source(), piped, tmp_path / "s")
    assert not Path(here.storage).exists()  # refused before anything was trained


def train_taught(
    rank: int, world_size: int, recipe: Recipe, plan: Plan, distillation: Distillation
) -> dict[str, Tensor]:
    """What one process of a crew does: its part of a training with hints."""
    task = images(Source())
    torch.manual_seed(recipe.seed)
    module = distillation.wrap(build(recipe.architecture, task.encoding))
    usual = make_loss(recipe, task.splits["train"].labels, len(task.encoding.labels))
    training = fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"],
        loss=distillation(module, usual), worker=Worker(rank, world_size), plan=plan,
    )  # fmt: skip
    return training.best.weights


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    started = Crew(size=2)
    yield started
    started.dismiss()


@pytest.mark.parametrize("plan", [Plan(), Plan("sharded")], ids=["replicas", "sharded"])
def test_two_workers_learn_the_hints_that_one_learns(teacher: Artifact, crew: Crew, plan: Plan) -> None:
    """Gradients of the projections are averaged too. Odd shares, micro-batches and averaged weights make it hard."""
    recipe = dataclasses.replace(
        RECIPE,
        architecture=Architecture("tests.toys:dense"),
        optimizer=Optimizer("sgd", lr=0.05),
        epochs=2,
        batch_size=17,
        micro_batch=4,
        ema_decay=0.8,
    )
    distillation = Distillation(TeacherPlace(teacher.folder), Distill(hints=(Hint("4", "2"),)))
    alone = train_taught(0, 1, recipe, Plan(), distillation)
    together = crew.run(2, train_taught, recipe, plan, distillation)[0]
    assert together.keys() == alone.keys()
    start = distillation.wrap(build(recipe.architecture, images(Source()).encoding)).state_dict()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5)
        assert not torch.equal(tensor, start[name])
    assert student_weights(alone).keys() == build(recipe.architecture, images(Source()).encoding).state_dict().keys()
