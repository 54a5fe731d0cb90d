"""Robustness: what is left of a model's accuracy when its inputs are corrupted."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array, ImageEncoding
from training.evaluation.corruptions import CORRUPTIONS, corrupt
from training.evaluation.plots import FIRST, MUTED, SECOND, WORST, new_figure, plain
from training.evaluation.scores import clopper_pearson, predict_in_batches
from training.evaluation.text_corruptions import TEXT_CORRUPTIONS, corrupt_text
from training.task import Split, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of the five that are published.
SEVERITY_NAMES = {1: "mild", 3: "medium", 5: "heavy"}
MEASURED_SEVERITIES = tuple(SEVERITY_NAMES)
CHUNK_ROWS = 128


@dataclass(frozen=True)
class Corrupted:
    """Accuracy under one corruption of one severity, with its exact 95 % interval."""

    corruption: str
    severity: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Robustness:
    """All on the same `rows` rows, drawn from the split by a fixed seed; `clean_accuracy` is theirs uncorrupted.

    Texts are corrupted as the tokenizer gives them back, and `clean_accuracy` is of those.
    """

    rows: int
    clean_accuracy: float
    results: tuple[Corrupted, ...]

    @property
    def mean_accuracy(self) -> float:
        """Over all corruptions and severities alike."""
        return float(np.mean([result.accuracy for result in self.results]))

    @property
    def worst(self) -> Corrupted:
        return min(self.results, key=lambda result: result.accuracy)

    def of(self, corruption: str) -> list[Corrupted]:
        return [result for result in self.results if result.corruption == corruption]

    @property
    def corruptions(self) -> list[str]:
        """By mean accuracy, the worst first."""
        names = dict.fromkeys(result.corruption for result in self.results)
        return sorted(names, key=lambda name: np.mean([result.accuracy for result in self.of(name)]))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mean_accuracy": self.mean_accuracy}


def measure_robustness(
    predict: Callable[[Array], Array],
    task: Task,
    split: Split,
    rows: int,
    seed: int = 0,
    track: Callable[[Iterable[tuple[str, int]]], Iterable[tuple[str, int]]] = iter,
) -> Robustness:
    """Accuracy of `predict` on `rows` rows of `split` (all, where it has fewer), as they are and corrupted.

    The same seed gives the same rows and the same corrupted inputs. `track` may show how far it is.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}: at least one must be corrupted")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:rows])
    inputs, labels_B = split.inputs[chosen], split.labels[chosen]

    def right(batches: Iterable[Array]) -> int:
        answers_B = np.concatenate([predict_in_batches(predict, batch).argmax(axis=1) for batch in batches])
        return int((answers_B == labels_B).sum())

    clean = right([uncorrupted(task, inputs)])
    results = []
    for name, severity in track(
        [(name, severity) for name in corruption_names(task) for severity in MEASURED_SEVERITIES]
    ):
        hits = right(corrupted(task, inputs, name, severity, seed))
        results.append(Corrupted(name, severity, hits / len(labels_B), clopper_pearson(hits, len(labels_B))))
    return Robustness(len(labels_B), clean / len(labels_B), tuple(results))


def corruption_names(task: Task) -> tuple[str, ...]:
    """What there is for the kind of input that `task` has."""
    return tuple(CORRUPTIONS if isinstance(task.encoding, ImageEncoding) else TEXT_CORRUPTIONS)


def corrupted(task: Task, inputs: Array, name: str, severity: int, seed: int = 0) -> Iterator[Array]:
    """The rows `inputs` [B, ...] of `task` corrupted, in parts and in their order; the same seed gives the same."""
    generator = np.random.default_rng([seed, corruption_names(task).index(name), severity])
    if not isinstance(task.encoding, ImageEncoding):
        texts = task.encoder().decode_texts(inputs)
        yield _encoded(task, [corrupt_text(text, name, severity, generator) for text in texts])
        return
    for start in range(0, len(inputs), CHUNK_ROWS):
        yield corrupt(inputs[start : start + CHUNK_ROWS], name, severity, generator)


def uncorrupted(task: Task, inputs: Array) -> Array:
    """The same rows before that: images as they are, texts as the tokenizer gives them back."""
    return inputs if isinstance(task.encoding, ImageEncoding) else _encoded(task, task.encoder().decode_texts(inputs))


def sample_pictures(images_CHW: NDArray[np.uint8], severity: int, seed: int = 0) -> dict[str, NDArray[np.uint8]]:
    """One picture as each corruption makes it, for a reader to see what is meant."""
    return {
        name: corrupt(images_CHW[None], name, severity, np.random.default_rng([seed, number, severity]))[0]
        for number, name in enumerate(CORRUPTIONS)
    }


def draw_robustness(found: Robustness) -> "Figure":
    """Accuracy by corruption and severity, the worst on top, against that of the same rows uncorrupted."""
    from matplotlib.ticker import PercentFormatter

    names = found.corruptions[::-1]
    figure = new_figure(5.2, 1.5 + 0.34 * len(names))
    axes = figure.subplots()
    heights = np.arange(len(names))
    for y, name in zip(heights, names, strict=True):
        accuracies = [result.accuracy for result in found.of(name)]
        axes.plot([min(accuracies), max(accuracies)], [y, y], color="#c9ced6", linewidth=2.5, zorder=1)
    styles = zip(SEVERITY_NAMES.items(), (FIRST, SECOND, WORST), ("o", "s", "D"), strict=True)
    for (severity, word), colour, marker in styles:
        accuracies = [next(r.accuracy for r in found.of(name) if r.severity == severity) for name in names]
        axes.scatter(accuracies, heights, color=colour, marker=marker, s=30, label=word, zorder=2)
    axes.axvline(found.clean_accuracy, color=MUTED, linestyle="--", linewidth=1, label="uncorrupted")
    axes.set_yticks(heights, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    lowest = min(result.accuracy for result in found.results)
    axes.set_xlim(max(0.0, np.floor(lowest * 10 - 0.3) / 10), 1.01)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    plain(axes, f"Under corruption, {found.mean_accuracy:.1%} in the mean", "accuracy")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _encoded(task: Task, texts: list[str]) -> Array:
    encoder = task.encoder()
    return encoder.collate(encoder.encode_texts(texts))
