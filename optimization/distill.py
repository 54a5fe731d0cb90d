"""Distil: a student learns from its teacher's softened answers on the very inputs that it sees itself."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from training.artifact import load_artifact
from training.encoding import ImageEncoding
from training.loop.losses import Loss
from training.module import load_module
from training.recipe import Precision


@dataclass(frozen=True)
class Distillation:
    """Makes Hinton's distillation loss (arXiv:1503.02531, section 2) for the teacher Artifact in `teacher_folder`.

    `soft_share` weighs the teacher's answers at `temperature` against the true labels. The soft term is
    multiplied by temperature squared, so that its gradients keep their size when the temperature changes.
    The teacher runs on each augmented batch: no cached logits, so both always judge the same image.
    """

    teacher_folder: Path
    temperature: float = 4.0
    soft_share: float = 0.9
    precision: Precision = "fp32"  # of the teacher's products, see Recipe.precision

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: it must be above 0")
        if not 0 <= self.soft_share <= 1:
            raise ValueError(f"soft_share is {self.soft_share}: a share lies in 0..1")

    def __call__(self) -> Loss:
        import torch

        artifact = load_artifact(self.teacher_folder)
        teacher = load_module(artifact)
        if isinstance(artifact.manifest.encoding, ImageEncoding):
            teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as fit() does
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

        def loss(inputs: Tensor, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
            with torch.no_grad(), torch.autocast(inputs.device.type, low, enabled=low is not None):
                soft_BC = teacher.to(inputs.device)(inputs).float()
            softened = functional.kl_div(
                functional.log_softmax(logits_BC / self.temperature, dim=1),
                functional.log_softmax(soft_BC / self.temperature, dim=1),
                reduction="batchmean",
                log_target=True,
            )
            hard = functional.cross_entropy(logits_BC, labels_B)
            return self.soft_share * self.temperature**2 * softened + (1 - self.soft_share) * hard

        return loss
