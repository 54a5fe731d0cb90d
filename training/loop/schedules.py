"""Schedules: the learning rates at each step, as a function of the step's number and, on a plateau, of val losses."""

import math
from typing import Any

from torch.optim import Optimizer

from training.recipe import Recipe
from training.recipe import Schedule as ScheduleChoice

# one_cycle begins at 1/25 of the peak and ends at 1/10,000 of that (the defaults of torch's OneCycleLR).
_START, _END = 1 / 25, 1 / 25e4


def make_schedule(recipe: Recipe, optimizer: Optimizer, total_steps: int) -> "Schedule":
    """The schedule of `recipe` over `total_steps` steps; it sets the rates of the first one at once.

    Make it before `optimizer.load_state_dict`, or the rates that a training stood at are taken for its peaks.
    """
    return Schedule(recipe.schedule, optimizer, total_steps)


class Schedule:
    """Call step() after each step of the optimizer, and epoch_end() after each epoch's validation."""

    def __init__(self, choice: ScheduleChoice, optimizer: Optimizer, total_steps: int) -> None:
        self._choice, self._optimizer, self._total_steps = choice, optimizer, total_steps
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self._momenta = [_momentum(group) for group in optimizer.param_groups]
        self._step = 0
        self._best, self._bad_epochs, self._reductions = math.inf, 0, 0
        self._apply()

    def step(self) -> None:
        self._step += 1
        self._apply()

    def epoch_end(self, val_loss: float) -> None:
        """Tell the mean loss over the val split; the rates change by it on a plateau alone."""
        if val_loss < self._best:
            self._best, self._bad_epochs = val_loss, 0
            return
        self._bad_epochs += 1
        if self._choice.name == "plateau" and self._bad_epochs >= self._choice.patience:
            self._reductions, self._bad_epochs = self._reductions + 1, 0
            self._apply()

    def rates(self) -> list[float]:
        """The learning rate of each of the optimizer's parameter groups."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "best": self._best,
            "bad_epochs": self._bad_epochs,
            "reductions": self._reductions,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._best, self._bad_epochs, self._reductions = state["best"], state["bad_epochs"], state["reductions"]
        self._apply()

    def _apply(self) -> None:
        factor = rate_factor(self._choice, self._step, self._total_steps) * self._choice.factor**self._reductions
        for group, peak, momentum in zip(self._optimizer.param_groups, self._peaks, self._momenta, strict=True):
            group["lr"] = peak * factor
            if self._choice.name == "one_cycle":
                _set_momentum(group, cycled_momentum(momentum, self._choice.warmup, self._step, self._total_steps))


def rate_factor(choice: ScheduleChoice, step: int, total_steps: int) -> float:
    """The share of the peak that step number `step`, counted from 0, is taken at; a plateau's reductions aside."""
    warmup_steps = int(choice.warmup * total_steps)
    if choice.name == "one_cycle":
        return _cycle(step, warmup_steps, total_steps, _START, 1.0, _END)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if choice.name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if choice.name == "linear":
        return 1 - progress
    if choice.name == "step":
        return choice.factor ** sum(step >= drop * total_steps for drop in choice.drops)
    return 1.0


def cycled_momentum(momentum: float, warmup: float, step: int, total_steps: int) -> float:
    """one_cycle's momentum at `step`: what it lacks to 1 is half of the usual at both ends, 1.5 times at the peak.

    For 0.9 it falls from 0.95 to 0.85 and rises again (Smith and Topin 2017). None (0) stays none.
    """
    if not momentum:
        return momentum
    lack = _cycle(step, int(warmup * total_steps), total_steps, 0.5, 1.5, 0.5) * (1 - momentum)
    return max(0.0, 1 - lack)


def _cycle(step: int, warmup_steps: int, total_steps: int, start: float, peak: float, end: float) -> float:
    """From `start` up to `peak` in the last step of the warm-up and on to `end` in the last of all, along cosines."""
    top = max(0, warmup_steps - 1)
    if step < top:
        return _between(start, peak, step / top)
    return _between(peak, end, min(1.0, (step - top) / max(1, total_steps - 1 - top)))


def _between(begin: float, end: float, progress: float) -> float:
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * progress))


def _momentum(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum
