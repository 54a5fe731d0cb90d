"""Slowed: a teacher that answers with the mean over so many views of an image as take a given time on this machine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.demo.views import Grid, averaged_over_views
from optimization.measure.latency import measure_latency
from optimization.runners.open import open_runner
from training.artifact import MODEL_FILE, Artifact, write_artifact
from training.encoding import Array, ImageEncoding

THREADS = 1
# Enough calls that their median is not one that the machine held up.
TIMED_CALLS = 30
# Rows times views is what the graph holds at a time: more rows at once would fill the memory.
SLOW_BATCH = 8


@dataclass(frozen=True)
class Slowed:
    """What was written, and what one image really takes."""

    teacher: Artifact
    views: int
    item_ms: float


def slow_down(
    teacher: Artifact,
    grid: Callable[[int, int, int], Grid],
    item_ms: float,
    most_views: int,
    row: Array,
    folder: Path,
) -> Slowed:
    """`teacher` in `folder` with about `item_ms` an image, timed on `row` [C,H,W].

    `grid` makes the views of their number, height and width. Raises ValueError where the teacher is no ONNX graph of
    images.
    """
    encoding = teacher.manifest.encoding
    if not isinstance(encoding, ImageEncoding) or teacher.manifest.format != "onnx":
        raise ValueError(
            f"the teacher of {teacher.manifest.name!r} is no ONNX graph that reads images: it has no views"
        )
    content = teacher.model_path.read_bytes()

    def write(views: int, name: str) -> tuple[Artifact, float]:
        slow = averaged_over_views(content, grid(views, encoding.height, encoding.width))
        made = _write(folder / name, teacher, slow, views)
        runners = {name: open_runner(made, THREADS)}
        latency = measure_latency(runners, lambda rows: np.stack([row] * rows), (1,), rounds=1, calls=TIMED_CALLS)
        return made, latency[name].at(1).p50_ms

    # Two sizes give the time of a view without that of a call.
    (_, few_ms), (_, more_ms) = write(2, "few"), write(10, "more")
    each_ms = max((more_ms - few_ms) / 8, few_ms / 100)
    views = min(most_views, max(1, round(2 + (item_ms - few_ms) / each_ms)))
    made, took_ms = write(views, "slow")
    return Slowed(made, views, took_ms)


def _write(folder: Path, teacher: Artifact, content: bytes, views: int) -> Artifact:
    manifest = teacher.manifest
    return write_artifact(
        folder,
        {MODEL_FILE["onnx"]: content},
        name=manifest.name,
        variant=f"{manifest.variant}-{views}-views",
        task=manifest.task,
        format="onnx",
        precision=manifest.precision,
        encoding=manifest.encoding,
        input=manifest.input,
        output=manifest.output,
        architecture=manifest.architecture,
        parent=teacher.digest,
    )
