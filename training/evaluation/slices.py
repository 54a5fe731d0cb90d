"""Slices: accuracy on parts of the rows, and which parts are weak for certain.

Shape suffixes: B rows, C channels, H height, W width, L tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array, Encoding, ImageEncoding, softmax
from training.evaluation.scores import clopper_pearson
from training.task import load_callable

SIGNIFICANCE = 0.05
CONFIDENCE_BANDS = (0.0, 0.5, 0.8, 0.95, 0.99, 1.0)
# In thirds of fewer rows nothing could be told.
LEAST_ROWS = 30

Masks = Mapping[str, NDArray[np.bool_]]
Slicer = Callable[[Array, NDArray[np.int64]], Masks]


@dataclass(frozen=True)
class SliceScore:
    """Accuracy on the rows of one slice, with its exact 95 % interval.

    `p_value` is the probability that as many rows drawn at random from the whole split would be answered as badly,
    corrected for the number of slices that were tested (Holm 1979); None where nothing was tested. `weak` is one
    below 0.05: then it is no accident.
    """

    group: str
    name: str
    rows: int
    accuracy: float
    interval: tuple[float, float]
    p_value: float | None

    @property
    def weak(self) -> bool:
        return self.p_value is not None and self.p_value < SIGNIFICANCE

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "weak": self.weak}


def built_in_slices(encoding: Encoding, inputs: Array, labels_B: Array) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Group -> name -> mask [B]: the classes; thirds of images by brightness and contrast, of texts by length."""
    groups = {"class": {label: labels_B == i for i, label in enumerate(encoding.labels)}}
    if isinstance(encoding, ImageEncoding):
        pixels_BP = inputs.reshape(len(inputs), -1)
        brightness_B = pixels_BP.mean(axis=1, dtype=np.float64)
        contrast_B = np.array([row.std(dtype=np.float64) for row in pixels_BP])
        groups["brightness"] = _thirds(brightness_B, ("dark", "medium", "bright"), "mean pixel")
        groups["contrast"] = _thirds(contrast_B, ("low", "medium", "high"), "standard deviation")
        return groups
    tokens_B = (inputs != encoding.pad_id).sum(axis=1)
    groups["length"] = _thirds(tokens_B.astype(np.float64), ("short", "medium", "long"), "tokens")
    # What is longer was cut off, and the model did not see its end.
    groups["length"][f"full: {encoding.max_tokens} tokens or cut"] = tokens_B >= encoding.max_tokens
    return groups


def confidence_bands(logits_BC: Array) -> dict[str, NDArray[np.bool_]]:
    """Name -> mask [B] of rows by their largest softmax."""
    confidence_B = softmax(logits_BC).max(axis=1)
    return {
        f"{low:.0%} to {high:.0%}": (confidence_B > low) & (confidence_B <= high) if high < 1 else confidence_B > low
        for low, high in pairwise(CONFIDENCE_BANDS)
    }


def load_slicer(reference: str) -> Slicer:
    """The user's own `module:callable`: (inputs [B, ...], labels [B]) -> name -> bool mask [B].

    Raises ValueError when there is no such thing.
    """
    if ":" not in reference:
        raise ValueError(f"slices {reference!r}: name them as module:callable")
    return load_callable(reference, "training.evaluation", "")


def own_slices(slicer: Slicer, inputs: Array, labels_B: Array) -> Masks:
    """What `slicer` says of these rows, checked; raises ValueError on anything but one bool a row."""
    masks = slicer(inputs, labels_B)
    if not isinstance(masks, Mapping):
        raise ValueError(f"the slices' callable returned a {type(masks).__name__}: it must return name -> mask")
    for name, mask in masks.items():
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.shape != labels_B.shape:
            raise ValueError(f"slice {name!r} is {array.dtype} {array.shape}: give one bool a row, {labels_B.shape}")
    return {str(name): np.asarray(mask) for name, mask in masks.items()}


def score_slices(
    correct_B: NDArray[np.bool_], groups: Mapping[str, Masks], untested: Sequence[str] = ("confidence",)
) -> tuple[SliceScore, ...]:
    """Each slice that has rows, in the order given; the groups in `untested` get no p-value.

    Confidence bands are of that kind: to be right less often is what a low confidence says.
    """
    from scipy.stats import hypergeom

    rows, right = len(correct_B), int(correct_B.sum())
    found: list[tuple[str, str, int, int]] = []
    for group, masks in groups.items():
        for name, mask_B in masks.items():
            if mask_B.any():
                found.append((group, name, int(mask_B.sum()), int(correct_B[mask_B].sum())))
    # Those that hold every row cannot differ from the whole.
    tested = [i for i, (group, _, held, _) in enumerate(found) if group not in untested and held < rows]
    raw = [float(hypergeom.cdf(found[i][3], rows, right, found[i][2])) for i in tested]
    p_values = dict(zip(tested, holm(raw), strict=True))
    return tuple(
        SliceScore(group, name, held, hits / held, clopper_pearson(hits, held), p_values.get(i))
        for i, (group, name, held, hits) in enumerate(found)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that the chance of any false alarm is kept (Holm 1979)."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = highest
    return corrected


def _thirds(values_B: NDArray[np.float64], names: Sequence[str], unit: str) -> dict[str, NDArray[np.bool_]]:
    """Rows by which third of all values theirs falls into; nothing where there are few rows or one value."""
    low, high = np.quantile(values_B, [1 / 3, 2 / 3])
    if len(values_B) < LEAST_ROWS or low == high:
        return {}
    return {
        f"{names[0]} ({unit} up to {low:.4g})": values_B <= low,
        f"{names[1]} ({unit} up to {high:.4g})": (values_B > low) & (values_B <= high),
        f"{names[2]} ({unit} above {high:.4g})": values_B > high,
    }
