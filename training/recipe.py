"""Recipe: every choice of one training run, immutable and logged whole; each default stands here once."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from training.models.architecture import Architecture

Precision = Literal["fp32", "bf16", "fp16"]
Settable = TypeVar("Settable")


@dataclass(frozen=True)
class Optimizer:
    """`muon` orthogonalizes the momentum of matrices and filters (Jordan 2024); what is no matrix, the embeddings, the
    first convolution and the last layer go to AdamW, at `lr` times `adamw_lr_share`.
    """

    name: Literal["sgd", "adamw", "muon"] = "adamw"
    lr: float = 1e-3  # the peak of the schedule
    weight_decay: float = 0.01
    momentum: float = 0.9  # sgd and muon (both with Nesterov)
    adamw_lr_share: float = 0.1  # muon alone


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` share of all steps, then down.

    cosine falls to 0 along half a wave, linear along a line; constant stays; one_cycle rises and falls along cosines
    with the momentum against it (Smith and Topin 2017); step multiplies by `factor` at each share of all steps in
    `drops`; plateau multiplies by `factor` when val loss has not fallen for `patience` epochs.
    """

    name: Literal["cosine", "linear", "constant", "one_cycle", "step", "plateau"] = "cosine"
    warmup: float = 0.1
    factor: float = 0.1  # step and plateau
    drops: tuple[float, ...] = (0.5, 0.75)  # step
    patience: int = 3  # plateau


@dataclass(frozen=True)
class Augmentation:
    """Random changes to image batches; all zero means none. Text is never augmented.

    What befalls a row depends on seed, epoch and the row's number alone, never on the company it keeps.
    """

    # Above 0: a part of at least this share of the area is enlarged to the whole image, with its sides' ratio changed
    # from 3/4 to 4/3 (Szegedy et al. 2015). Photographs: 0.08 to 0.35.
    crop: float = 0.0
    shift: float = 0.0  # largest shift, as a share of the side
    rotate_degrees: float = 0.0
    scale: float = 0.0  # largest relative zoom
    flip: bool = False  # left-right, half of the time
    policy: Literal["none", "rand_augment", "trivial_augment"] = "none"  # torchvision's, image by image
    erase: float = 0.0  # the probability that a rectangle is blanked
    mixup: float = 0.0  # alpha of the Beta distribution by which two rows are blended; 0: never
    cutmix: float = 0.0  # the same for a rectangle of another row


@dataclass(frozen=True)
class Recipe:
    task: str  # a built-in task or module:callable
    architecture: Architecture
    epochs: int
    # Keyword arguments of the task, such as an image's size or the names of a table's columns.
    task_params: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 128  # over all workers
    # Rows that a worker takes through the model at once; 0: its whole share of a batch. Halved when memory runs out.
    micro_batch: int = 0
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    label_smoothing: float = 0.0
    # Above 0: what is well classified counts less, by this power (focal loss, Lin et al. 2017).
    focal_gamma: float = 0.0
    # Against unequal classes: weigh rare ones more in the loss, or draw them more often.
    class_balance: Literal["none", "weights", "sampling"] = "none"
    clip_norm: float = 1.0
    # Above 0: what is validated and kept is a running mean of the weights, of which each step keeps this share.
    ema_decay: float = 0.0
    # Above 0: training ends when val accuracy has not risen for so many epochs.
    early_stopping: int = 0
    # Texts alone: batches of texts of like length, for a model whose time grows with the padded length.
    batch_by_length: bool = False
    # bf16 runs the forward pass's products in bfloat16; twice as fast where the CPU or GPU has it, slow elsewhere.
    # fp16 scales the loss, so that small gradients do not vanish.
    precision: Precision = "fp32"
    # Compute activations again in the backward pass instead of keeping them: less memory, a third more time.
    recompute_activations: bool = False
    compile: bool = False  # torch.compile
    # Refuse operations that may give other bits each time, where the device has such.
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("micro_batch", "early_stopping", "seed", "focal_gamma"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0")
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
        if not 0 <= self.augmentation.crop <= 1:
            raise ValueError(
                f"augmentation.crop is {self.augmentation.crop}: it is the smallest share of an image's area that is "
                "cut out, 0 <= crop <= 1 (0 crops nothing)"
            )
        if not 0 <= self.augmentation.erase <= 1:
            raise ValueError(f"augmentation.erase is {self.augmentation.erase}: it is a probability")
        if not all(0 < drop < 1 for drop in self.schedule.drops):
            raise ValueError(f"schedule.drops is {self.schedule.drops}: each is a share of all steps, 0 < drop < 1")


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted field -> value, as a run's parameters."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Architecture):
            value = value.to_json()  # which says nothing of pruning where nothing is pruned
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}{key}.", inner)
        else:
            flat[prefix[:-1]] = value

    walk("", recipe)
    return flat


def override(recipe: Settable, settings: Sequence[str]) -> Settable:
    """`["optimizer.lr=0.1", ...]` applied by field to a Recipe or another frozen dataclass of choices, each value read
    as its field's type.

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
        if len(path) > 1:
            raise ValueError(f"unknown setting {full!r}; there is: {', '.join(node)}")
        return {**node, path[0]: _parse(text, type(node[path[0]]), full) if path[0] in node else _guess(text)}
    hints = typing.get_type_hints(type(node))
    if path[0] not in hints:
        raise ValueError(f"unknown setting {full!r}; there is: {', '.join(hints)}")
    value = getattr(node, path[0])
    if len(path) > 1:
        if not (dataclasses.is_dataclass(value) or isinstance(value, Mapping)):
            raise ValueError(f"unknown setting {full!r}: {path[0]} has no fields")
        changed = _replace(value, path[1:], text, full)
    elif hints[path[0]] is Architecture:
        changed = Architecture(text)  # another model altogether: it starts from its own defaults
    else:
        changed = _parse(text, hints[path[0]], full)
    return dataclasses.replace(node, **{path[0]: changed})


def _guess(text: str) -> Any:
    """The value of a parameter whose type the recipe does not know: JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _numbers(text: str) -> list[int | float]:
    """Of "1,2" or "[1,2]"; raises ValueError on anything else."""
    found = json.loads(f"[{text.strip().removeprefix('[').removesuffix(']')}]")
    if not found or any(type(one) not in (int, float) for one in found):
        raise ValueError(f"{text!r} lists no numbers")
    return list(found)


def _parse(text: str, kind: Any, full: str) -> Any:
    if typing.get_origin(kind) is types.UnionType:  # a choice that may be left open
        if text == "none":
            return None
        (kind,) = (one for one in typing.get_args(kind) if one is not types.NoneType)
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"{full} is {text!r}; it is one of {', '.join(typing.get_args(kind))}")
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError(f"{full} is {text!r}; write true or false")
        return text == "true"
    try:
        if kind == tuple[str, ...]:
            return tuple(part.strip() for part in text.split(","))
        if kind == tuple[float, ...]:
            return tuple(map(float, _numbers(text)))
        if kind in (tuple, list):
            return _numbers(text)
        if kind in (int, float, str):
            return kind(text)
    except ValueError as error:
        raise ValueError(f"{full} is {text!r}, which is no {kind.__name__}") from error
    raise ValueError(f"{full} has fields of its own: set one of them")
