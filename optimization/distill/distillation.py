"""Distillation: what makes the loss, and the module in training, of a TrainJob that is taught.

The teacher answers each batch as the student sees it, after augmentation and trimming, so that both always judge the
same inputs ("consistent views", Beyer et al. 2022, arXiv:2106.05237): no answer is kept from one epoch for another.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from optimization.distill.hinted import Hinted
from optimization.distill.layers import hint_loss
from optimization.distill.losses import soft_loss
from optimization.distill.parameters import Distill
from optimization.distill.teacher import TeacherPlace, open_teacher
from training.encoding import TextEncoding
from training.loop.losses import Loss
from training.module import load_module
from training.recipe import Precision


@dataclass(frozen=True)
class Distillation:
    """Picklable: `TrainJob(make_loss=distillation, wrap=distillation.wrap)`; each worker opens the teacher itself."""

    teacher: TeacherPlace
    parameters: Distill = Distill()  # noqa: RUF009  # frozen
    precision: Precision = "fp32"  # of the teacher's products, see Recipe.precision

    def wrap(self, student: nn.Module) -> nn.Module:
        """What is trained: the student itself, or with hints a Hinted around it.

        Raises ValueError where the teacher or the student has no layers such as the hints name.
        """
        if not self.parameters.hints:
            return student
        artifact = self.teacher.artifact()
        if artifact.manifest.format != "torch":
            open_teacher(artifact, [hint.teacher for hint in self.parameters.hints])  # says why not
        return Hinted(student, self.parameters.hints, artifact.manifest.encoding, load_module(artifact))

    def __call__(self, module: nn.Module, usual: Loss) -> Loss:
        """The loss for `module`, which `wrap` made; `usual` is the recipe's own, of the labels.

        Labels may be class numbers or, of mixed rows, probabilities: the teacher sees the mixed rows.
        """
        parameters, artifact = self.parameters, self.teacher.artifact()
        teacher = open_teacher(artifact, [hint.teacher for hint in parameters.hints], self.precision)
        encoding = artifact.manifest.encoding
        pad_id = encoding.pad_id if isinstance(encoding, TextEncoding) else None
        if parameters.hints:
            assert isinstance(module, Hinted), "the job has wrap=distillation.wrap"

        def loss(inputs: Tensor, logits_BC: Tensor, targets: Tensor) -> Tensor:
            teacher_BC, of_teacher = teacher(inputs)
            soft = soft_loss(parameters, logits_BC, teacher_BC)
            total = parameters.soft_share * soft + (1 - parameters.soft_share) * usual(inputs, logits_BC, targets)
            if not isinstance(module, Hinted):
                return total
            mask_BL = inputs != pad_id if pad_id is not None else None
            pairs = zip(module.take(), of_teacher, strict=True)
            distances = [hint_loss(foretold, wanted, mask_BL) for foretold, wanted in pairs]
            return total + parameters.hint_weight * sum(distances) / len(distances)

        return loss
