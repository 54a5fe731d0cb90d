"""Distill: how a student is taught, as data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from training.recipe import Recipe, override
from training.recipes import load_recipe

Objective = Literal["kl", "dist"]


@dataclass(frozen=True)
class Hint:
    """The outputs of one layer of the teacher, which one of the student's is to foretell; both by their module names.

    The names are those of `nn.Module.named_modules()`. A layer may answer with [B, C], [B, C, H, W] or, of texts,
    [B, L, C]; a recurrent layer's states count, not its last state.
    """

    teacher: str
    student: str

    @staticmethod
    def parse(text: str) -> "Hint":
        """`TEACHER_LAYER:STUDENT_LAYER`."""
        teacher, _, student = text.partition(":")
        return Hint(teacher, student)

    def __post_init__(self) -> None:
        if not self.teacher or not self.student:
            raise ValueError(
                f"hint {self.teacher!r}:{self.student!r}: name a layer of the teacher and one of the student, "
                "TEACHER_LAYER:STUDENT_LAYER"
            )


@dataclass(frozen=True)
class Distill:
    """The loss is soft_share * (what the teacher answers) + (1 - soft_share) * (the recipe's own loss of the labels)
    + hint_weight * (the mean over the hints).
    """

    # The student's recipe (a name or module:callable); None: the teacher's with _student behind its name.
    student: str | None = None
    # Changes of that recipe, each FIELD=VALUE.
    settings: tuple[str, ...] = ()
    # A file of weights, or an Artifact's folder, that the student begins with; empty: from scratch.
    init_from: str = ""
    # How the answers are compared: kl by their divergence (Hinton et al. 2015); dist by their correlation over the
    # classes of a row and over the rows of a class (Huang et al. 2022), which leaves a student that is much
    # smaller than its teacher free in the scale of its answers.
    objective: Objective = "kl"
    temperature: float = 4.0  # by which logits are divided before the softmax; what it softens shows the lesser classes
    soft_share: float = 0.9  # of the teacher's answers against the labels
    inter_weight: float = 1.0  # dist alone: of the correlation over the classes of a row
    intra_weight: float = 1.0  # dist alone: of the correlation over the rows of a class
    hints: tuple[Hint, ...] = ()
    hint_weight: float = 1.0  # a hint's loss is 1 where the student's layer tells nothing of the teacher's

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise ValueError(f"objective is {self.objective!r}: it is one of {', '.join(get_args(Objective))}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}: it must be above 0, and finite")
        if not 0 <= self.soft_share <= 1:
            raise ValueError(f"soft_share is {self.soft_share}: a share lies in 0..1")
        for name in ("inter_weight", "intra_weight", "hint_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: a weight is at least 0, and finite")
        if self.objective == "dist" and not self.inter_weight + self.intra_weight > 0:
            raise ValueError("inter_weight and intra_weight are both 0: nothing of the teacher's answers would be left")

    def recipe(self, default: str, task_params: Mapping[str, Any]) -> Recipe:
        """The student's recipe with its settings; `default` is taken where the parameters name none.

        `task_params` are the teacher's: a student learns the task that its teacher learned.
        """
        recipe = dataclasses.replace(load_recipe(self.student or default), task_params=task_params)
        return override(recipe, self.settings)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Distill":
        """Inverse of `to_json`; what is left out takes its default. Raises ValueError on anything else."""
        try:
            hints = tuple(Hint(**hint) for hint in data.get("hints", ()))
            return Distill(**{**data, "settings": tuple(data.get("settings", ())), "hints": hints})
        except TypeError as error:
            raise ValueError(f"the parameters of a distillation, {dict(data)}, cannot be read: {error}") from error
