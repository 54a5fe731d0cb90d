"""Find a learning rate or a micro-batch by trying: a copy of the model is trained for some steps and thrown away.

Shape suffixes: S steps.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.loop.losses import Loss
from training.loop.optimizers import make_optimizer
from training.recipe import Recipe

Batch = tuple[Tensor, Tensor]  # inputs and targets, on the model's device
# One step of training at a learning rate: the batch's mean loss before it.
Step = Callable[[Batch, float], float]

# A sweep ends where the running mean of the loss is so many times its lowest.
DIVERGED = 4.0
SMOOTHING = 0.8
FEWEST_STEPS = 10  # that tell anything
TIMED_STEPS = 3
# On a CPU no larger micro-batch is tried once a step takes so long: its best lies far below.
LONGEST_STEP_S = 5.0
# Of several micro-batches that are about as fast the smallest is suggested, since it needs the least memory.
ABOUT_AS_FAST = 0.95


@dataclass(frozen=True)
class RateCurve:
    """The rates that were tried, the loss at each, raw and smoothed, and the rate at which it fell most steeply."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float
    diverged: bool


@dataclass(frozen=True)
class BatchCurve:
    """The micro-batches that fit into memory, rising, the speed of each, and the one to train with."""

    rows: tuple[int, ...]
    samples_per_s: tuple[float, ...]
    suggestion: int


def find_learning_rate(
    recipe: Recipe,
    module: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
) -> RateCurve:
    """The learning-rate range test (Smith 2015): `steps` steps, one of `batches` each, with a rate that rises from
    `lowest` to `highest` by the same factor each time. It ends early where the loss diverges.

    `loss` is made for the recipe; what else changes a step (precision, micro-batches, clipping) is read from it.
    Raises ValueError where the loss never falls, or so few steps are asked for that they would not tell.
    """
    if steps < FEWEST_STEPS:
        raise ValueError(f"{steps} steps tell nothing of a learning rate: give at least {FEWEST_STEPS}")
    rates_S = np.geomspace(lowest, highest, steps)
    losses: list[float] = []
    diverged = False
    with trial(recipe, module, loss) as step:
        for rate, batch in zip(rates_S.tolist(), batches, strict=False):
            losses.append(step(batch, rate))
            diverged = _diverges(np.array(losses))
            if diverged:
                # The last may be no number at all.
                losses.pop()
                break
    losses_S = np.array(losses)
    if len(losses_S) >= FEWEST_STEPS:
        smoothed_S, steepest = _steepest_descent(rates_S[: len(losses_S)], losses_S)
        if steepest is not None:
            rates, smoothed = rates_S[: len(losses_S)].tolist(), smoothed_S.tolist()
            return RateCurve(tuple(rates), tuple(losses), tuple(smoothed), rates[steepest], diverged)
    raise ValueError(
        f"the loss did not fall in {len(losses)} steps, at rates from {lowest:.0e} on: look at the data and the model"
    )


def _diverges(losses_S: NDArray[np.float64]) -> bool:
    if not math.isfinite(losses_S[-1]):
        return True
    means_S = _running_mean(losses_S)
    return len(losses_S) >= FEWEST_STEPS and bool(means_S[-1] > DIVERGED * means_S.min())


def _steepest_descent(
    rates_S: NDArray[np.float64], losses_S: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int | None]:
    """Smoothed losses, and where on the way to their lowest they fall most steeply over the logarithm of the rate."""
    # Both ways: a running mean lags behind, and in one way alone would show the descent at too high a rate.
    smoothed_S = (_running_mean(losses_S) + _running_mean(losses_S[::-1])[::-1]) / 2
    lowest = int(smoothed_S.argmin())
    return smoothed_S, int(np.gradient(smoothed_S, np.log(rates_S))[:lowest].argmin()) if lowest else None


def _running_mean(values_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exponential, corrected for its start at 0, as Adam's are."""
    means_S, mean = np.empty_like(values_S), 0.0
    for step, value in enumerate(values_S.tolist()):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        means_S[step] = mean / (1 - SMOOTHING ** (step + 1))
    return means_S


def find_micro_batch(
    recipe: Recipe, module: nn.Module, read: Callable[[int], Batch], loss: Loss, most: int
) -> BatchCurve:
    """The micro-batch to train with, of at most `most` rows; `read(rows)` gives a batch of so many.

    On a GPU it is the largest that fits into memory, on a CPU the smallest that is about as fast as the fastest.
    Raises ValueError where not even one row fits.
    """
    speeds: dict[int, float] = {}
    on_gpu = next(module.parameters()).is_cuda
    whole = dataclasses.replace(recipe, micro_batch=0)  # or each trial would be cut into parts that fit
    with trial(whole, module, loss) as step:

        def fits(rows: int) -> bool:
            try:
                speeds[rows] = _samples_per_s(step, read(rows), recipe.optimizer.lr)
            except torch.OutOfMemoryError:
                return False
            finally:
                if on_gpu:
                    torch.cuda.empty_cache()
            return on_gpu or rows / speeds[rows] < LONGEST_STEP_S

        largest = largest_that_fits(fits, most, resolution=1 / 16 if on_gpu else 1)
    if not speeds:
        raise ValueError("not even one row fits into memory: take a smaller model, or smaller inputs")
    fast = min(rows for rows, speed in speeds.items() if speed >= ABOUT_AS_FAST * max(speeds.values()))
    tried = sorted(speeds)
    return BatchCurve(tuple(tried), tuple(speeds[rows] for rows in tried), largest if on_gpu else fast)


def largest_that_fits(fits: Callable[[int], bool], most: int, resolution: float) -> int:
    """The largest number up to `most` that fits, or 0: by doubling, then halving the gap down to a share of itself."""
    low, high = 0, most + 1
    rows = 1
    while rows < high:
        if not fits(rows):
            high = rows
            break
        low = rows
        rows = min(2 * rows, most) if rows < most else high
    while high <= most and high - low > max(1, resolution * low):
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def _samples_per_s(step: Step, batch: Batch, rate: float) -> float:
    seconds = []
    for _ in range(1 + TIMED_STEPS):  # the first one allocates
        began = time.perf_counter()
        step(batch, rate)  # reads the loss, and so waits for the device
        seconds.append(time.perf_counter() - began)
    return len(batch[0]) / float(np.median(seconds[1:]))


@contextmanager
def trial(recipe: Recipe, module: nn.Module, loss: Loss) -> Iterator[Step]:
    """Steps on a copy of `module`; the module itself and the global generators of random numbers stay as they are."""
    device = next(module.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        copied = copy.deepcopy(module).train()
        optimizer = make_optimizer(recipe, copied)
        shares = [group["lr"] / recipe.optimizer.lr for group in optimizer.param_groups]
        scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        half = torch.float16 if recipe.precision == "fp16" else torch.bfloat16

        def step(batch: Batch, rate: float) -> float:
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            inputs, targets = batch
            rows = recipe.micro_batch or len(inputs)
            mean = torch.zeros((), device=device)
            optimizer.zero_grad()
            for some, their in zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True):
                with torch.autocast(device.type, half, enabled=recipe.precision != "fp32"):
                    logits_BC = copied(some)
                part = loss(some, logits_BC.float(), their) * (len(some) / len(inputs))
                torch.autograd.backward(scaler.scale(part))
                mean += part.detach()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(copied.parameters(), recipe.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            return float(mean)

        yield step
