import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor

from optimization.distill.losses import divergence, relations, soft_loss
from optimization.distill.parameters import Distill
from training.encoding import softmax


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    """Of a student and a teacher, [12, 5]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 5, generator=generator), 3 * torch.randn(12, 5, generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_divergence_is_hintons(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    q, p = (softmax(each.numpy(), temperature) for each in logits)
    expected = (p * (np.log(p) - np.log(q))).sum(axis=1).mean() * temperature**2
    assert float(divergence(*logits, temperature)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_relations_are_pearsons_over_classes_and_over_rows(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = (softmax(each.numpy().astype(np.float64), temperature) for each in logits)
    over_classes = np.mean([pearsonr(a, b).statistic for a, b in zip(student, teacher, strict=True)])
    over_rows = np.mean([pearsonr(a, b).statistic for a, b in zip(student.T, teacher.T, strict=True)])
    inter, intra = relations(*logits, temperature)
    assert float(inter) == pytest.approx(temperature**2 * (1 - over_classes), rel=1e-4)
    assert float(intra) == pytest.approx(temperature**2 * (1 - over_rows), rel=1e-4)


def test_relations_leave_the_scale_of_the_answers_free() -> None:
    """Of two classes any two answers that agree in which is the likelier correlate perfectly, however unsure one is."""
    teacher = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    inter, intra = relations(teacher / 20, teacher, 1.0)
    assert float(inter) == pytest.approx(0, abs=1e-5)
    assert float(intra) == pytest.approx(0, abs=1e-5)
    assert float(divergence(teacher / 20, teacher, 1.0)) > 0.4


@pytest.mark.parametrize("objective", ["kl", "dist"])
def test_a_student_that_answers_as_its_teacher_has_no_loss_and_stays(
    logits: tuple[Tensor, Tensor], objective: str
) -> None:
    own = logits[1].clone().requires_grad_()
    loss = soft_loss(Distill(objective=objective), own, logits[1])  # type: ignore[arg-type]
    torch.autograd.backward(loss)
    assert own.grad is not None
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)
    assert float(own.grad.abs().max()) < 1e-3


def test_the_weights_of_dist_weigh_its_two_parts(logits: tuple[Tensor, Tensor]) -> None:
    inter, intra = relations(*logits, 2.0)
    loss = soft_loss(Distill(objective="dist", temperature=2.0, inter_weight=3.0, intra_weight=0.5), *logits)
    assert float(loss) == pytest.approx(3 * float(inter) + 0.5 * float(intra))


@pytest.mark.parametrize("temperature", [10.0, 40.0])
def test_the_divergences_gradients_keep_their_size_at_any_temperature(
    logits: tuple[Tensor, Tensor], temperature: float
) -> None:
    student = torch.zeros(12, 5, requires_grad=True)
    torch.autograd.backward(divergence(student, logits[1], temperature))
    assert student.grad is not None
    # At a high temperature they tend to (student - teacher) / classes / rows, both about their means (section 2.1).
    limit = (logits[1].mean(dim=1, keepdim=True) - logits[1]) / 5 / 12
    assert float((student.grad - limit).norm() / limit.norm()) < 3 / temperature


def test_rows_and_classes_without_variation_move_nothing() -> None:
    """One row alone, as a part of a batch may be, has no correlation over rows; equal logits have none over classes."""
    flat = torch.zeros(1, 4, requires_grad=True)
    inter, intra = relations(flat, torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 1.0)
    torch.autograd.backward(inter + intra)
    assert flat.grad is not None
    assert float(inter.detach()) == float(intra.detach()) == 1
    assert bool(torch.isfinite(flat.grad).all())


def test_the_divergence_of_a_batch_is_the_mean_of_its_parts(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    parts = [float(divergence(student[rows], teacher[rows], 3.0)) for rows in (slice(4), slice(4, 12))]
    assert float(divergence(student, teacher, 3.0)) == pytest.approx((4 * parts[0] + 8 * parts[1]) / 12, rel=1e-5)
