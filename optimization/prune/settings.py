"""Prune, Sparsify, FineTune: every choice of the two passes, as data; each default stands here once."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Unit = Literal["channels", "blocks"]
Criterion = Literal["l1", "l2", "bn_scale", "taylor", "random"]
Allocation = Literal["global", "uniform"]
Training = Literal["labels", "distil"]


@dataclass(frozen=True)
class FineTune:
    """How the weights that are left learn again after each round; what is not said here is as in the model's recipe."""

    epochs: int = 10  # of each round; 0: not at all
    lr_share: float = 0.1  # the peak of the learning rate, as a share of the recipe's own
    # By the labels alone, or also by the answers of the model before it was pruned (Hinton's distillation).
    learn_from: Training = "labels"
    temperature: float = 4.0  # distil alone
    soft_share: float = 0.9  # distil alone: how much the answers weigh against the labels

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"fine_tune.epochs is {self.epochs}: it must be at least 0")
        if not self.lr_share > 0:
            raise ValueError(f"fine_tune.lr_share is {self.lr_share}: it must be above 0")
        if not self.temperature > 0:
            raise ValueError(f"fine_tune.temperature is {self.temperature}: it must be above 0")
        if not 0 <= self.soft_share <= 1:
            raise ValueError(f"fine_tune.soft_share is {self.soft_share}: a share lies in 0..1")


@dataclass(frozen=True)
class Prune:
    """Whole channels or whole blocks are taken out, so that the model is smaller and faster on any hardware.

    `amount` is the share of them to take out, `speedup` the measured gain to reach: one of the two is given.
    """

    amount: float | None = None
    speedup: float | None = None  # ONNX Runtime, one thread, against the model before, at `batch_size`
    batch_size: int = 1
    # Of blocks (a ResNet's, a transformer's layers) those go without which the answers change least, one by one.
    unit: Unit = "channels"
    # What a channel is worth: the size of its weights (l1, l2), the scale of its BatchNorm (Liu et al. 2017), how much
    # the loss changes without it (taylor, Molchanov et al. 2019), or nothing (random: a control).
    criterion: Criterion = "l1"
    # The worst channels of all layers together, or the same share of each layer.
    allocation: Allocation = "global"
    round_to: int = 8  # widths become multiples of it, and no layer narrower than it
    taylor_rows: int = 512  # of the train split, whose gradients say what a channel is worth
    block_rows: int = 256  # of the val split, the answers to which say what a block is worth
    rounds: int = 1  # prune and fine-tune so many times, each time a part of the way
    seed: int = 0  # of the random criterion and of the rows that are drawn
    fine_tune: FineTune = field(default_factory=FineTune)

    def __post_init__(self) -> None:
        if (self.amount is None) == (self.speedup is None):
            raise ValueError(f"amount is {self.amount} and speedup is {self.speedup}: give one of the two")
        if self.amount is not None and not 0 < self.amount < 1:
            raise ValueError(f"amount is {self.amount}: it is a share of the {self.unit}, 0 < amount < 1")
        if self.speedup is not None and not self.speedup > 1:
            raise ValueError(f"speedup is {self.speedup}: it must be above 1")
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit is {self.unit!r}: it is one of {', '.join(get_args(Unit))}")
        _at_least_one(self, "batch_size", "block_rows", "round_to", "taylor_rows", "rounds")


@dataclass(frozen=True)
class Sparsify:
    """Single weights are set to zero and kept there: a file gets smaller once it is compressed, and nothing faster."""

    amount: float = 0.8  # the share of weights that are zero in the end
    allocation: Allocation = "global"  # the smallest of all layers together, or the same share of each layer
    rounds: int = 1
    fine_tune: FineTune = field(default_factory=FineTune)

    def __post_init__(self) -> None:
        if not 0 < self.amount < 1:
            raise ValueError(f"amount is {self.amount}: it is a share of the weights, 0 < amount < 1")
        _at_least_one(self, "rounds")


def share_left(amount: float, done: int, rounds: int) -> float:
    """What stays after `done` of `rounds` rounds that each take the same share of what they find."""
    left: float = (1 - amount) ** (done / rounds)
    return left


def _at_least_one(settings: Prune | Sparsify, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is {getattr(settings, name)}: it must be at least 1")
