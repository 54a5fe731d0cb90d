"""Structured: the pass that takes whole channels or blocks out of an Artifact and lets the rest learn again."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optimization.prune.accuracy import accuracy_of
from optimization.prune.block_selection import BlockSelector
from optimization.prune.counts import Counts, count
from optimization.prune.fine_tune import School, fine_tune
from optimization.prune.latency import Trial
from optimization.prune.rebuild import write_weights
from optimization.prune.selection import ChannelSelector, Selector
from optimization.prune.settings import Prune
from training.artifact import Artifact
from training.module import load_module
from training.task import Task


@dataclass(frozen=True)
class Round:
    """One time of pruning and fine-tuning.

    Accuracies are of the val split, by which the best epoch was chosen; `accuracy_tuned` is None where none was.
    """

    widths: Mapping[str, int]  # of each group of channels, by the layer that makes them; of a block 1 or 0
    counts: Counts
    accuracy_cut: float
    accuracy_tuned: float | None
    trials: tuple[Trial, ...]  # what was measured where a speed-up was asked for


@dataclass(frozen=True)
class Pruned:
    """`left` names the layers or blocks that could not be taken out, each with the reason."""

    artifact: Artifact
    widths: Mapping[str, int]  # before
    counts: Counts  # before
    accuracy: float  # before, of the val split
    rounds: tuple[Round, ...]
    left: Mapping[str, str]

    def metrics(self) -> dict[str, float]:
        last = self.rounds[-1]
        return {
            "val_accuracy": last.accuracy_cut if last.accuracy_tuned is None else last.accuracy_tuned,
            "val_accuracy_before": self.accuracy,
            "parameters": last.counts.parameters,
            "parameters_before": self.counts.parameters,
            "macs": last.counts.macs,
            "macs_before": self.counts.macs,
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "before": {"widths": dict(self.widths), **dataclasses.asdict(self.counts), "val_accuracy": self.accuracy},
            "rounds": [dataclasses.asdict(made) for made in self.rounds],
            "left": dict(self.left),
        }


def prune(
    source: Artifact, task: Task, settings: Prune, school: School, folder: Path, variant: str = "pruned"
) -> Pruned:
    """`source` (format "torch") with fewer channels or blocks: the Artifact `folder / variant`, of the parent `source`.

    What earlier rounds made lies beside it. Raises PruneError where they cannot be taken out as asked,
    ArtifactError where `source` has no module, and what trainings raise.
    """
    module = load_module(source)
    architecture = source.manifest.architecture
    assert architecture is not None, "load_module refuses what has none"
    selector: Selector
    selector = (ChannelSelector if settings.unit == "channels" else BlockSelector)(module, task, settings)
    row, val = torch.from_numpy(task.splits["train"].inputs[:1].copy()), task.splits["val"]
    before = count(module, row), accuracy_of(module, val)
    rounds = []
    for number in range(1, settings.rounds + 1):
        selection = selector.select(module, architecture, number)
        architecture = selection.architecture
        name = variant if number == settings.rounds else f"{variant}-{number}"
        is_final = not settings.fine_tune.epochs
        made = write_weights(
            folder / (name if is_final else f"{name}-cut"), variant, source, architecture, selection.weights
        )
        accuracy_cut, accuracy_tuned = accuracy_of(load_module(made), val), None
        if not is_final:
            trained = fine_tune(made, source, task, settings.fine_tune, school)
            made = write_weights(folder / name, variant, source, architecture, trained.weights)
            accuracy_tuned = accuracy_of(load_module(made), val)
        module = load_module(made)
        rounds.append(Round(selection.widths, count(module, row), accuracy_cut, accuracy_tuned, selection.trials))
    return Pruned(made, selector.widths, *before, tuple(rounds), selector.left)
