import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from optimization.distill import Distillation
from tests.toys import images, write_torch
from training.artifact import Artifact
from training.encoding import softmax
from training.models.architecture import Architecture, build
from training.module import load_module
from training.task import Source, Task


@pytest.fixture(scope="module")
def toy() -> Task:
    return images(Source())


@pytest.fixture(scope="module")
def teacher(toy: Task, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_torch(tmp_path_factory.mktemp("t") / "teacher", toy, Architecture("convnet", {"widths": [8]}), seed=3)


@pytest.fixture(scope="module")
def batch(toy: Task) -> tuple[torch.Tensor, torch.Tensor]:
    split = toy.splits["train"]
    return torch.from_numpy(split.inputs[:12]), torch.from_numpy(split.labels[:12])


@pytest.mark.parametrize(("temperature", "soft_share"), [(1.0, 0.0), (1.0, 1.0), (4.0, 0.9), (0.5, 0.3)])
def test_the_loss_is_hintons(
    teacher: Artifact, batch: tuple[torch.Tensor, torch.Tensor], temperature: float, soft_share: float
) -> None:
    inputs, labels = batch
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    found = Distillation(teacher.folder, temperature, soft_share)()(inputs, logits, labels)

    with torch.inference_mode():
        of_teacher = load_module(teacher)(inputs).numpy()
    p, q = softmax(of_teacher, temperature), softmax(logits.numpy(), temperature)
    divergence = (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    hard = -np.log(softmax(logits.numpy())[np.arange(12), labels.numpy()]).mean()
    assert float(found) == pytest.approx(soft_share * temperature**2 * divergence + (1 - soft_share) * hard, rel=1e-4)


def test_a_teacher_in_bf16_teaches_nearly_the_same(teacher: Artifact, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, labels = batch
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    full, half = (float(Distillation(teacher.folder, precision=p)()(inputs, logits, labels)) for p in ("fp32", "bf16"))
    assert full != half
    assert half == pytest.approx(full, rel=0.02)


def test_a_student_that_equals_its_teacher_has_no_soft_loss(
    teacher: Artifact, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    inputs, labels = batch
    student = load_module(teacher)
    loss = Distillation(teacher.folder, soft_share=1.0)()(inputs, student(inputs), labels)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


def test_gradients_reach_the_student_alone(
    toy: Task, teacher: Artifact, batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_module(teacher)
    monkeypatch.setattr("optimization.distill.load_module", lambda artifact: loaded)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    inputs, labels = batch
    student = build(Architecture("tests.toys:dense"), toy.encoding)
    loss = Distillation(teacher.folder, soft_share=1.0)()(inputs, student(inputs), labels)
    torch.autograd.backward(loss)
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in loaded.parameters())
    # Not even the running statistics of its normalization move.
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.state_dict().items())


def test_the_soft_gradients_keep_their_size_at_any_temperature(
    teacher: Artifact, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    inputs, labels = batch
    sizes = []
    for temperature in (10.0, 40.0):
        logits = torch.zeros(12, 3, requires_grad=True)
        loss = Distillation(teacher.folder, temperature, soft_share=1.0)()(inputs, logits, labels)
        torch.autograd.backward(loss)
        assert logits.grad is not None
        sizes.append(float(logits.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_it_travels_to_workers(teacher: Artifact, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, labels = batch
    logits = torch.zeros(12, 3)
    made = Distillation(teacher.folder, temperature=2.0, soft_share=0.5)
    travelled = pickle.loads(pickle.dumps(made))
    assert travelled == made
    assert float(travelled()(inputs, logits, labels)) == float(made()(inputs, logits, labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, r"temperature is 0\.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"soft_share": 1.5}, r"soft_share is 1\.5"),
        ({"soft_share": -0.5}, r"soft_share is -0\.5"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(Path("teacher"), **change)
