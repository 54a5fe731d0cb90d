"""Recipe: every choice of one training run, immutable and logged whole; each default stands here once."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from training.models.architecture import Architecture


@dataclass(frozen=True)
class Optimizer:
    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = 1e-3  # the peak of the schedule
    weight_decay: float = 0.01
    momentum: float = 0.9  # sgd alone (with Nesterov)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` share of all steps, then a cosine (or nothing) down to 0."""

    name: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1


@dataclass(frozen=True)
class Augmentation:
    """Random changes to image batches; all zero means none. Text is never augmented."""

    shift: float = 0.0  # largest shift, as a share of the side
    rotate_degrees: float = 0.0
    scale: float = 0.0  # largest relative zoom
    flip: bool = False  # left-right, half of the time


@dataclass(frozen=True)
class Recipe:
    task: str  # a built-in task or module:callable
    architecture: Architecture
    epochs: int
    batch_size: int = 128  # over all workers
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    # Above 0: what is validated and kept is a running mean of the weights, of which each step keeps this share.
    ema_decay: float = 0.0
    # Texts alone: batches of texts of like length, for a model whose time grows with the padded length.
    batch_by_length: bool = False
    # bf16 runs the forward pass's products in bfloat16; twice as fast where the CPU or GPU has it, slow elsewhere.
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.optimizer.lr > 0:
            raise ValueError(f"optimizer.lr is {self.optimizer.lr}: it must be above 0")
        if not 0 <= self.schedule.warmup < 1:
            raise ValueError(f"schedule.warmup is {self.schedule.warmup}: it is a share of all steps, 0 <= warmup < 1")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}: it must lie in 0 <= x < 1")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}: it must be above 0 (inf clips nothing)")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: it must lie in 0 <= x < 1 (0 averages nothing)")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must be at least 0")


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted field -> value, as a run's parameters."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}{key}.", inner)
        else:
            flat[prefix[:-1]] = value

    walk("", recipe)
    return flat


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """`["optimizer.lr=0.1", ...]` applied by field, each value read as its field's type.

    Raises ValueError on an unknown field or a value of the wrong type, listing what there is.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"setting {setting!r} is not of the form field=value")
        recipe = _replace(recipe, path.split("."), text, path)
    return recipe


def _replace(node: Any, path: list[str], text: str, full: str) -> Any:
    if isinstance(node, Mapping):
        if path[0] not in node or len(path) > 1:
            raise ValueError(f"unknown setting {full!r}; there is: {', '.join(node)}")
        return {**node, path[0]: _parse(text, type(node[path[0]]), full)}
    hints = typing.get_type_hints(type(node))
    if path[0] not in hints:
        raise ValueError(f"unknown setting {full!r}; there is: {', '.join(hints)}")
    value = getattr(node, path[0])
    if len(path) > 1:
        if not (dataclasses.is_dataclass(value) or isinstance(value, Mapping)):
            raise ValueError(f"unknown setting {full!r}: {path[0]} has no fields")
        changed = _replace(value, path[1:], text, full)
    else:
        changed = _parse(text, hints[path[0]], full)
    return dataclasses.replace(node, **{path[0]: changed})


def _parse(text: str, kind: Any, full: str) -> Any:
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"{full} is {text!r}; it is one of {', '.join(typing.get_args(kind))}")
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{full} is {text!r}; write true or false")
        return text == "true"
    try:
        if kind in (tuple, list):
            return [int(part) for part in text.split(",")]
        if kind in (int, float, str):
            return kind(text)
    except ValueError as error:
        raise ValueError(f"{full} is {text!r}, which is no {kind.__name__}") from error
    raise ValueError(f"{full} has fields of its own: set one of them")
