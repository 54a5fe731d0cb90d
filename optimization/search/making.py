"""Making: a pipeline carried out, stage by stage, in the process of a trial. Plain Python; Ray Tune calls it.

Shape suffixes: N rows, C classes.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimization.distill.parameters import Distill
from optimization.distill.student import distill, lesson_of
from optimization.distill.teacher import TeacherPlace
from optimization.prune.fine_tune import School
from optimization.prune.settings import Prune
from optimization.prune.structured import prune
from optimization.quantize.aware import quantize_aware
from optimization.quantize.aware_settings import QuantizationAware
from optimization.quantize.choice import NoQuantization, PostTraining, Quantization
from optimization.quantize.choice import to_json as quantization_to_json
from optimization.quantize.cpu import fastest_types
from optimization.runners.open import open_runner
from optimization.search.pipeline import Pipeline
from optimization.search.stages import Stage, Stages
from optimization.variants import Variant, aware_variant, float_variant, quantized_variant, range_split
from training.artifact import Artifact, load_artifact
from training.encoding import Array
from training.evaluation.scores import check_logits, predict_in_batches
from training.launch.job import Compute, identity_of
from training.recipe import Recipe
from training.task import Source, Task, load_task

LOGITS_FILE = "gate_logits.npy"
TOLD_EVERY_S = 15.0  # of a training's epochs, at most so often


@dataclass(frozen=True)
class Workshop:
    """What is the same for every pipeline of a search.

    `teacher_recipe` is how a teacher learns again, pruned or for INT8; None where nobody knows it. `student_recipe` is
    that of a student whose `distill` names none. `folder` holds stages and half-done trainings.
    """

    teacher: TeacherPlace
    teacher_recipe: Recipe | None
    student_recipe: str
    source: Source
    task_params: tuple[tuple[str, Any], ...]
    data_hash: str
    folder: Path
    threads: int = 1


@dataclass(frozen=True)
class Made:
    """What came of a pipeline. `folders` are of its Artifacts, each made of the one before, the servable one last;
    `correct` of the gate split's rows are answered right, `seconds` is what its own stages took.
    """

    folders: tuple[str, ...]
    digest: str
    correct: int
    rows: int
    size_bytes: int
    seconds: float
    stages: tuple[str, ...]
    reused: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        return self.correct / self.rows

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Made":
        """Inverse of `dataclasses.asdict`, also where JSON made lists of its tuples."""
        return Made(**{**data, **{name: tuple(data[name]) for name in ("folders", "stages", "reused")}})


def make(pipeline: Pipeline, share: float, shop: Workshop, say: Callable[[str], None]) -> Made:
    """Carry `pipeline` out, each training with `share` of its epochs, and score what comes of it on the gate split.

    `say` is told each stage that is made, before it is, and now and then how far its training is. Raises ValueError or
    TrainingError, with the reason, where it cannot be carried out.
    """
    began = time.perf_counter()
    maker = _Maker(shop, share, say)
    artifact = maker.taught(pipeline.distill)
    if pipeline.prune is not None:
        artifact = maker.pruned(artifact, pipeline)
    graph = maker.graph(artifact, pipeline.quantize)
    labels_N = maker.task.splits["gate"].labels
    correct = int((gate_logits(graph, maker.task, shop.threads).argmax(axis=1) == labels_N).sum())
    return Made(
        tuple(str(stage.artifact.folder) for stage in maker.stages),
        graph.digest,
        correct,
        len(labels_N),
        graph.size_bytes,
        time.perf_counter() - began,
        tuple(stage.name for stage in maker.stages),
        tuple(stage.name for stage in maker.stages if stage.reused),
    )


def gate_logits(graph: Artifact, task: Task, threads: int) -> Array:
    """[N, C] of a stage's graph on the gate split, answered once and kept beside it."""
    path = graph.folder.parent / LOGITS_FILE
    gate = task.splits["gate"]
    if path.exists():
        with_rows: Array = np.load(path, allow_pickle=False)
        if len(with_rows) == len(gate):
            return with_rows
    logits_NC = predict_in_batches(open_runner(graph, threads), gate.inputs)
    check_logits(logits_NC, gate.labels)
    scratch = path.with_suffix(f".{id(graph)}.part")
    with scratch.open("wb") as file:
        np.save(file, logits_NC)
    scratch.replace(path)
    return logits_NC


class _Maker:
    """The stages of one pipeline, as they come."""

    def __init__(self, shop: Workshop, share: float, say: Callable[[str], None]) -> None:
        self._shop, self._share, self._say = shop, share, say
        self._kept = Stages(shop.folder / "stages")
        self._said_at = 0.0
        self._names: list[str] = []
        self._recipe = shop.teacher_recipe  # by which what there is now was trained
        self.stages: list[Stage] = []

    @property
    def task(self) -> Task:
        shop = self._shop
        return _task(shop.teacher.artifact().manifest.task, shop.source, shop.task_params)

    def taught(self, given: Distill | None) -> Artifact:
        teacher = self._shop.teacher.artifact()
        if given is None:
            self._names.append("teacher")
            return teacher
        recipe = self._shortened(given.recipe(self._shop.student_recipe, dict(self._shop.task_params)))
        self._recipe, shop = recipe, self._shop
        self._names.append("student")
        made_of = {
            "teacher": teacher.digest,
            "training": identity_of(recipe, shop.data_hash),
            "distill": lesson_of(given),
            "variant": self._variant(),
        }
        return self._stage(
            f"distilling over {recipe.epochs} epochs",
            made_of,
            lambda folder: distill(
                shop.teacher, given, recipe, self.task, shop.source, self._compute(), folder / self._variant(),
                variant=self._variant(),
            ),
        )  # fmt: skip

    def pruned(self, source: Artifact, pipeline: Pipeline) -> Artifact:
        assert pipeline.prune is not None
        settings, recipe = self._fewer_epochs(pipeline.prune), self._known_recipe()
        # `share` is in the recipe of a student that was shortened; the rates are those of the whole one.
        school = School(recipe, self._shop.source, self._compute())
        self._names.append("pruned")
        made_of = {
            "source": source.digest,
            "training": identity_of(recipe, self._shop.data_hash),
            "prune": asdict(settings),
            "variant": self._variant(),
        }
        return self._stage(
            f"pruning, and learning again over {settings.rounds * settings.fine_tune.epochs} epochs",
            made_of,
            lambda folder: prune(source, self.task, settings, school, folder, self._variant()).artifact,
        )

    def graph(self, source: Artifact, choice: Quantization) -> Artifact:
        """What is served."""
        if isinstance(choice, QuantizationAware):
            return self._exported(self._trained_aware(source, choice), "int8", aware_variant)
        graph = self._exported(source, "fp32", float_variant)
        return graph if choice == NoQuantization() else self._quantized(graph, choice)

    def _exported(
        self, source: Artifact, precision: str, export: Callable[[str, Artifact, Task, Path, int], Variant]
    ) -> Artifact:
        self._names.append(precision)
        return self._stage(
            "exporting",
            {"source": source.digest, "variant": self._variant()},
            lambda folder: export(self._variant(), source, self.task, folder, self._shop.threads).artifact,
        )

    def _quantized(self, graph: Artifact, choice: PostTraining) -> Artifact:
        said = quantization_to_json(choice)
        self._names[-1] = said["kind"].replace("_", "-")
        types = asdict(fastest_types())  # what "auto" stands for here
        made_of = {"source": graph.digest, "quantize": said, "types": types, "variant": self._variant()}
        return self._stage(
            "quantizing",
            made_of,
            lambda folder: (
                quantized_variant(self._variant(), graph, choice, self.task, folder, self._shop.threads).artifact
            ),
        )

    def _trained_aware(self, source: Artifact, given: QuantizationAware) -> Artifact:
        choice = dataclasses.replace(given, epochs=self._share_of(given.epochs))
        recipe, shop = self._known_recipe(), self._shop
        self._names.append("aware")
        made_of = {
            "source": source.digest,
            "training": identity_of(recipe, shop.data_hash),
            "quantize": quantization_to_json(choice),
            "types": asdict(fastest_types()),
            "variant": self._variant(),
        }
        return self._stage(
            f"training for INT8 over {choice.epochs} epochs",
            made_of,
            lambda folder: quantize_aware(
                source, recipe, self.task, shop.source, range_split(self.task).inputs, choice, self._compute(),
                folder / self._variant(),
                variant=self._variant(),
            ),
        )  # fmt: skip

    def _stage(self, said: str, made_of: dict[str, Any], carry_out: Callable[[Path], Artifact]) -> Artifact:
        def making(folder: Path) -> Artifact:
            self._tell(said)
            return carry_out(folder)

        stage = self._kept.get(said.partition(" ")[0].rstrip(","), made_of, making)
        self.stages.append(stage)
        return stage.artifact

    def _variant(self) -> str:
        return "-".join(self._names)

    def _known_recipe(self) -> Recipe:
        if self._recipe is None:
            raise ValueError("the recipe by which the teacher is to learn again is not known: give --recipe")
        return self._recipe

    def _share_of(self, epochs: int) -> int:
        return math.ceil(self._share * epochs)

    def _shortened(self, recipe: Recipe) -> Recipe:
        return dataclasses.replace(recipe, epochs=self._share_of(recipe.epochs))

    def _fewer_epochs(self, settings: Prune) -> Prune:
        fine_tune = dataclasses.replace(settings.fine_tune, epochs=self._share_of(settings.fine_tune.epochs))
        return dataclasses.replace(settings, fine_tune=fine_tune)

    def _compute(self) -> Compute:
        """In this process, going on with what a kill cut off; nothing waits for its end but the trial."""
        return Compute(
            threads=self._shop.threads, local=True, storage=str(self._shop.folder / "trainings"), tell=self._tell_epoch
        )

    def _tell(self, line: str) -> None:
        self._say(line)
        self._said_at = time.monotonic()

    def _tell_epoch(self, epoch: str) -> None:
        if time.monotonic() - self._said_at >= TOLD_EVERY_S:
            self._tell(epoch)


@functools.lru_cache(maxsize=1)
def _task(reference: str, source: Source, params: tuple[tuple[str, Any], ...]) -> Task:
    """A process makes one pipeline after the other, of the same data."""
    return load_task(reference, source, dict(params))


def load_made(made: Made) -> tuple[Artifact, ...]:
    """Verified against their hashes; raises ArtifactError."""
    return tuple(load_artifact(Path(folder)) for folder in made.folders)
