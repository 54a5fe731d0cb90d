"""What a student's logits are held to: its teacher's, softened, by divergence or by correlation.

Each is a mean over the rows, so that workers and micro-batches add up to one gradient; but for the correlation over the
rows of a class, which knows the rows alone that go through the model at once.

Shape suffixes: B rows, C classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from optimization.distill.parameters import Distill

_SMALLEST_NORM = 1e-8


def soft_loss(parameters: Distill, logits_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """The loss of `parameters.objective`, float32 []."""
    if parameters.objective == "kl":
        return divergence(logits_BC, teacher_BC, parameters.temperature)
    inter, intra = relations(logits_BC, teacher_BC, parameters.temperature)
    return parameters.inter_weight * inter + parameters.intra_weight * intra


def divergence(logits_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of the softened answers (Hinton et al. 2015, arXiv:1503.02531, section 2).

    It is multiplied by temperature squared, so that its gradients keep their size when the temperature changes.
    """
    return temperature**2 * functional.kl_div(
        functional.log_softmax(logits_BC / temperature, dim=1),
        functional.log_softmax(teacher_BC / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def relations(logits_BC: Tensor, teacher_BC: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """DIST (Huang et al. 2022, arXiv:2205.10536, equations 6 and 8): one minus Pearson's correlation of the softened
    answers, the mean over the rows (inter-class) and over the classes (intra-class), each times temperature squared.

    A row or class without variation has no correlation: it counts as 0 and moves nothing.
    """
    student_BC, soft_BC = ((logits / temperature).softmax(dim=1) for logits in (logits_BC, teacher_BC))
    inter = 1 - _correlation(student_BC, soft_BC, dim=1).mean()
    intra = 1 - _correlation(student_BC, soft_BC, dim=0).mean()
    return temperature**2 * inter, temperature**2 * intra


def _correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    # Each to unit length first: the product of two small norms would vanish beside any epsilon.
    a, b = functional.normalize(a, dim=dim, eps=_SMALLEST_NORM), functional.normalize(b, dim=dim, eps=_SMALLEST_NORM)
    return torch.sum(a * b, dim)
