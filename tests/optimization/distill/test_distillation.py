import contextlib
import copy
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from optimization.distill import teacher as teacher_module
from optimization.distill.distillation import Distillation
from optimization.distill.hinted import Hinted
from optimization.distill.layers import hint_loss
from optimization.distill.losses import divergence
from optimization.distill.parameters import Distill, Hint
from optimization.distill.teacher import TeacherPlace, open_teacher
from tests.optimization.distill.lessons import (
    BAG,
    CONVNET,
    LSTM,
    SMALL,
    TRANSFORMER,
    cross_entropy,
    make,
    write_teacher,
)
from tests.toys import texts
from training.artifact import Artifact
from training.models.architecture import Architecture, build
from training.module import load_module
from training.task import Source, Task

Batch = tuple[Tensor, Tensor]
HINTS = (Hint("1", "1"), Hint("4", "3"))


@pytest.fixture(scope="module")
def batch(toy: Task) -> Batch:
    split = toy.splits["train"]
    return torch.from_numpy(split.inputs[:12]), torch.from_numpy(split.labels[:12])


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


def _answers(teacher: Artifact, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        answers: Tensor = load_module(teacher)(inputs)
    return answers


@pytest.mark.parametrize("soft_share", [0.0, 0.3, 1.0])
def test_the_loss_weighs_the_teachers_answers_against_the_labels(
    teacher: Artifact, batch: Batch, logits: Tensor, soft_share: float
) -> None:
    inputs, labels = batch
    soft = divergence(logits, _answers(teacher, inputs), 2.0)
    hard = functional.cross_entropy(logits, labels)
    found = make(teacher, temperature=2.0, soft_share=soft_share)(inputs, logits, labels)
    assert float(found) == pytest.approx(soft_share * float(soft) + (1 - soft_share) * float(hard), rel=1e-5)


def test_mixed_rows_are_judged_as_mixed_by_both(teacher: Artifact, batch: Batch, logits: Tensor) -> None:
    """Labels are probabilities then, and the teacher answers the very mixture that the student saw."""
    inputs, labels = batch
    one_hot = functional.one_hot(labels, 3).float()
    mixed = (0.7 * inputs.float() + 0.3 * inputs.flip(0).float()).round().to(torch.uint8)
    targets = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    found = make(teacher, temperature=2.0, soft_share=0.5)(mixed, logits, targets)
    soft = divergence(logits, _answers(teacher, mixed), 2.0)
    hard = -(targets * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()
    assert float(found) == pytest.approx((float(soft) + float(hard)) / 2, rel=1e-5)
    assert float(found) != pytest.approx(float(make(teacher, temperature=2.0)(inputs, logits, targets)), rel=1e-3)


def test_a_teacher_in_bf16_teaches_nearly_the_same(teacher: Artifact, batch: Batch, logits: Tensor) -> None:
    inputs, labels = batch
    place = TeacherPlace(teacher.folder)
    losses = [Distillation(place, precision=p)(nn.Identity(), cross_entropy) for p in ("fp32", "bf16")]
    full, half = (float(loss(inputs, logits, labels)) for loss in losses)
    assert full != half
    assert half == pytest.approx(full, rel=0.02)


def test_gradients_reach_the_student_alone(
    toy: Task, teacher: Artifact, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_module(teacher)
    monkeypatch.setattr(teacher_module, "load_module", lambda artifact: loaded)
    before = copy.deepcopy(loaded.state_dict())
    inputs, labels = batch
    student = build(Architecture("tests.toys:dense"), toy.encoding)
    torch.autograd.backward(make(teacher, soft_share=1.0)(inputs, student(inputs), labels))
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in loaded.parameters())
    # Not even the running statistics of its normalization move.
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.state_dict().items())


def test_a_teacher_is_moved_to_its_batches_once(
    teacher: Artifact, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, moves = load_module(teacher), []
    monkeypatch.setattr(teacher_module, "load_module", lambda artifact: loaded)
    opened = open_teacher(teacher)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    monkeypatch.setattr(loaded, "to", lambda *where: moves.append(where))
    monkeypatch.setattr(loaded, "forward", lambda inputs: torch.zeros(len(inputs), 3))
    for device in ("cpu", "meta", "meta", "cpu"):
        opened(batch[0].to(device))
    assert moves == [(torch.device("meta"),), (torch.device("cpu"),)]


@pytest.mark.parametrize(("objective", "hints"), [("kl", ()), ("dist", ()), ("kl", HINTS)])
def test_it_travels_to_workers(
    toy: Task, teacher: Artifact, batch: Batch, objective: str, hints: tuple[Hint, ...]
) -> None:
    made = Distillation(TeacherPlace(teacher.folder), Distill(objective=objective, hints=hints))  # type: ignore[arg-type]
    travelled, wrap = pickle.loads(pickle.dumps((made, made.wrap)))
    assert travelled == made
    losses = []
    for distillation, wrapping in ((made, made.wrap), (travelled, wrap)):
        torch.manual_seed(0)
        student = wrapping(build(SMALL, toy.encoding)).train()
        losses.append(float(distillation(student, cross_entropy)(batch[0], student(batch[0]), batch[1]).detach()))
    assert losses[0] == losses[1]


def test_a_worker_without_the_folder_fetches_the_teacher(
    teacher: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Registry:
        def __init__(self, uri: str) -> None:
            asked.append(uri)

        def resolve(self, reference: str) -> object:
            asked.append(reference)
            return SimpleNamespace(digest=teacher.digest)

        def fetch(self, version: SimpleNamespace, cache_dir: Path) -> Path:
            shutil.copytree(teacher.folder, cache_dir / version.digest)
            return cache_dir / version.digest

    monkeypatch.setattr(teacher_module, "Registry", Registry)
    place = TeacherPlace(tmp_path / "cache" / teacher.digest, "toy@3", "http://registry")
    assert place.artifact().digest == place.artifact().digest == teacher.digest
    assert asked == ["http://registry", "toy@3"]  # once: the second finds the folder


@pytest.mark.parametrize("kind", ["bag", "transformer", "lstm"])
def test_texts_are_taught_across_families_and_padding_teaches_nothing(tmp_path: Path, kind: str) -> None:
    task = texts(Source())
    teacher = write_teacher(tmp_path, task, {"bag": BAG, "transformer": TRANSFORMER, "lstm": LSTM}[kind])
    tokens, labels = (torch.from_numpy(part[:9]) for part in (task.splits["train"].inputs, task.splits["train"].labels))
    student = build(BAG, task.encoding).eval()
    loss = make(teacher)
    padded = functional.pad(tokens, (0, 5), value=0)
    short, long = (float(loss(batch, student(batch), labels).detach()) for batch in (tokens, padded))
    assert long == pytest.approx(short, rel=1e-4)


def test_a_student_beside_its_hints_answers_as_it_does_alone(toy: Task, teacher: Artifact, batch: Batch) -> None:
    student = build(SMALL, toy.encoding)
    hinted = Distillation(TeacherPlace(teacher.folder), Distill(hints=HINTS)).wrap(student)
    assert isinstance(hinted, Hinted)
    for mode in (False, True):
        student.train(mode)
        hinted.train(mode)
        alone = copy.deepcopy(student)(batch[0])
        assert torch.equal(hinted(batch[0]), alone)
    foretold = hinted.take()
    # One 1x1 convolution from 4 channels to the 8 of layer "1", and a linear map to the 16 of layer "4".
    assert [list(each.shape) for each in foretold] == [[12, 8, 4, 4], [12, 16]]
    hinted.eval()(batch[0])
    assert hinted.take() == []  # a validation foretells nothing
    assert Distillation(TeacherPlace(teacher.folder)).wrap(student) is student


def test_a_copy_of_a_hinted_student_has_taps_of_its_own(toy: Task, teacher: Artifact, batch: Batch) -> None:
    """As the moving average of the weights is one."""
    hinted = Distillation(TeacherPlace(teacher.folder), Distill(hints=HINTS)).wrap(build(SMALL, toy.encoding)).train()
    copied = copy.deepcopy(hinted)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert isinstance(hinted, Hinted) and isinstance(copied, Hinted)
    hinted(batch[0]), copied(batch[0])
    assert all(bool(foretold.any()) for foretold in hinted.take())
    assert not any(bool(foretold.any()) for foretold in copied.take())


def test_hints_add_their_distance_and_train_their_projections(toy: Task, teacher: Artifact, batch: Batch) -> None:
    inputs, labels = batch
    hinted = Distillation(TeacherPlace(teacher.folder), Distill(hints=HINTS)).wrap(build(SMALL, toy.encoding)).train()
    assert isinstance(hinted, Hinted)
    of_teacher = open_teacher(teacher, [hint.teacher for hint in HINTS])(inputs)[1]
    logits = hinted(inputs)
    foretold = hinted.take()
    distances = [float(hint_loss(a.detach(), b)) for a, b in zip(foretold, of_teacher, strict=True)]
    plain = float(make(teacher)(inputs, logits.detach(), labels))
    hinted(inputs)
    loss = make(teacher, hinted, hints=HINTS, hint_weight=0.7)(inputs, logits, labels)
    assert float(loss.detach()) == pytest.approx(plain + 0.7 * sum(distances) / 2, rel=1e-4)
    torch.autograd.backward(loss)
    assert all(p.grad is not None and p.grad.any() for p in hinted.projections.parameters())


def test_hints_of_texts_leave_out_padding(tmp_path: Path) -> None:
    task = texts(Source())
    teacher = write_teacher(tmp_path, task, LSTM)
    hints = (Hint("forward_lstm", "forward_lstm"),)
    torch.manual_seed(0)
    hinted = Distillation(TeacherPlace(teacher.folder), Distill(hints=hints)).wrap(build(LSTM, task.encoding)).train()
    loss = make(teacher, hinted, hints=hints, soft_share=0.0, hint_weight=1e3)
    tokens, labels = (torch.from_numpy(part[:9]) for part in (task.splits["train"].inputs, task.splits["train"].labels))
    found = [
        float(loss(batch, hinted(batch), labels).detach())
        for batch in (tokens, functional.pad(tokens, (0, 5), value=0))
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (Hint("9", "1"), "the teacher has no layer '9'; it has 0, 1"),
        (Hint("1", "9"), "the student has no layer '9'"),
        (
            Hint("1", "3"),
            r"hint 1:3: the teacher's layer answers a row with \[1, 8, 4, 4\], the student's with \[1, 4\]",
        ),
    ],
)
def test_hints_between_layers_that_do_not_match_are_refused(
    toy: Task, teacher: Artifact, hint: Hint, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(TeacherPlace(teacher.folder), Distill(hints=(hint,))).wrap(build(SMALL, toy.encoding))


@pytest.mark.slow
def test_a_graph_teaches_as_the_module_that_it_was_exported_from(tmp_path: Path, toy: Task, batch: Batch) -> None:
    from optimization.variants import float_variant

    source = write_teacher(tmp_path, toy, CONVNET)
    graph = float_variant("teacher-fp32", source, toy, tmp_path, threads=1).artifact
    logits = torch.randn(12, 3)
    of_graph, of_module = (float(make(one)(batch[0], logits, batch[1])) for one in (graph, source))
    assert of_graph == pytest.approx(of_module, rel=1e-3)
    with pytest.raises(ValueError, match="is a graph, whose layers cannot be looked into: leave out the hints"):
        Distillation(TeacherPlace(graph.folder), Distill(hints=HINTS)).wrap(build(SMALL, toy.encoding))
