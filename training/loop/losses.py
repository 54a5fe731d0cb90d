"""Losses: cross entropy with smoothed or soft targets, focal, with weights against unequal classes.

Each is the sum over the rows, divided by their number: the mean over a batch is the mean of its parts' means weighted
by their rows, so workers and micro-batches add up to one gradient.

Shape suffixes: B batch, C classes, N rows of the train split.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.recipe import Recipe

# (inputs, logits_BC, targets) -> the mean loss over the batch's rows. Inputs are as the model saw them; targets are
# class numbers, int64 [B], or probabilities, float32 [B, C].
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_loss(recipe: Recipe, labels: NDArray[np.int64], classes: int) -> Loss:
    """The loss that `recipe` asks for; `labels` are those of the train split, whose classes it may weigh."""
    weights_C = torch.from_numpy(class_weights(labels, classes)) if recipe.class_balance == "weights" else None
    gamma, smoothing = recipe.focal_gamma, recipe.label_smoothing

    @cache
    def weights_on(device: torch.device) -> Tensor | None:
        return None if weights_C is None else weights_C.to(device)

    def cross_entropy(inputs: Tensor, logits_BC: Tensor, targets: Tensor) -> Tensor:
        weights = weights_on(logits_BC.device)
        if weights is None:
            return functional.cross_entropy(logits_BC, targets, label_smoothing=smoothing)
        # Not torch's weighted mean: it divides by the weights that happen to be in the batch.
        total = functional.cross_entropy(logits_BC, targets, weights, reduction="sum", label_smoothing=smoothing)
        return total / len(logits_BC)

    def focal(inputs: Tensor, logits_BC: Tensor, targets: Tensor) -> Tensor:
        return focal_loss(logits_BC, targets, gamma, smoothing, weights_on(logits_BC.device))

    return focal if gamma else cross_entropy


def focal_loss(
    logits_BC: Tensor, targets: Tensor, gamma: float, label_smoothing: float = 0.0, weights_C: Tensor | None = None
) -> Tensor:
    """The mean of -(1 - p)^gamma log p, p being the probability of the row's class (Lin et al. 2017).

    Soft targets take the mean over the classes by their probabilities, as cross entropy does.
    """
    classes = logits_BC.shape[1]
    soft_BC = targets if targets.is_floating_point() else functional.one_hot(targets, classes).to(logits_BC.dtype)
    soft_BC = soft_BC * (1 - label_smoothing) + label_smoothing / classes
    log_p_BC = functional.log_softmax(logits_BC, dim=1)
    # Where p rounds to 1, a power below 1 would have an infinite slope.
    missed_BC = -torch.expm1(log_p_BC).clamp(max=-torch.finfo(log_p_BC.dtype).eps)
    losses_BC = -soft_BC * missed_BC**gamma * log_p_BC
    if weights_C is not None:
        losses_BC = losses_BC * weights_C
    return losses_BC.sum() / len(logits_BC)


def class_weights(labels_N: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Float32 [C]: weights inverse to how often a class occurs, whose mean over `labels_N` is 1.

    A class that does not occur weighs 1: only smoothing ever asks for it.
    """
    counts_C = np.bincount(labels_N, minlength=classes)
    occurring = np.count_nonzero(counts_C)
    weights_C = len(labels_N) / (occurring * np.maximum(counts_C, 1))
    return np.where(counts_C > 0, weights_C, 1.0).astype(np.float32)


def balanced_probabilities(labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Float64 [N]: with which probability to draw each row so that every class that occurs comes up alike often."""
    counts_C = np.bincount(labels_N)
    probabilities_N: NDArray[np.float64] = 1.0 / (np.count_nonzero(counts_C) * counts_C[labels_N])
    return probabilities_N
