"""Task: a learning problem, with its Encoding, its five splits and the margin it is gated by.

The splits are never mixed: train; val (early stopping, recipe choice); calibration (quantizer
ranges, temperature, threshold); gate (promotion); report (read for published figures only).
"""

import argparse
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.encoding import Array, Encoder, Encoding, TextEncoding

SplitName = Literal["train", "val", "calibration", "gate", "report"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "calibration", "gate", "report")


@dataclass(frozen=True)
class Source:
    """Where a Task finds its files: `data_dir` holds them, `download` allows fetching what is missing."""

    data_dir: Path | None = None
    download: bool = False


@dataclass(frozen=True)
class Split:
    """Encoded rows and their labels: inputs [N, ...] as the Encoding's input_spec says, labels int64 [N]."""

    inputs: Array
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise ValueError(f"{len(self.inputs)} inputs but {len(self.labels)} labels: give one label a row")
        if self.labels.ndim != 1 or self.labels.dtype != np.int64:
            raise ValueError(f"labels are {self.labels.dtype} {self.labels.shape}: give class numbers, int64 [N]")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """`margin` is the accuracy (a fraction) a student may lose to its teacher and still pass the gate.

    A student several times smaller gives up a point or so alone; in tandem it answers only what it is sure of.

    `files` holds what the Encoding names, such as a tokenizer; it travels inside every Artifact.
    """

    name: str
    encoding: Encoding
    splits: Mapping[SplitName, Split]
    margin: float = 0.01
    files: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in SPLIT_NAMES if not len(self.splits.get(name, ()))]
        if missing:
            raise ValueError(f"task {self.name!r}: the splits {', '.join(missing)} are missing or empty")
        if isinstance(self.encoding, TextEncoding) and self.encoding.tokenizer_file not in self.files:
            raise ValueError(f"task {self.name!r}: its files lack the tokenizer {self.encoding.tokenizer_file!r}")
        classes = len(self.encoding.labels)
        spec = self.encoding.input_spec
        for name, split in self.splits.items():
            if split.inputs.dtype != spec.dtype or not spec.admits(split.inputs.shape):
                raise ValueError(
                    f"task {self.name!r}, split {name}: inputs are {split.inputs.dtype} {split.inputs.shape}; "
                    f"its Encoding makes {spec.dtype} {spec.shape}"
                )
            if split.labels.min() < 0 or split.labels.max() >= classes:
                raise ValueError(
                    f"task {self.name!r}, split {name}: labels run from {split.labels.min()} to "
                    f"{split.labels.max()}; with {classes} classes they must lie in 0..{classes - 1}"
                )

    def encoder(self) -> Encoder:
        return Encoder(self.encoding, self.files)

    @cached_property
    def data_hash(self) -> str:
        """sha256 over every split's inputs and labels: the data a model was made from."""
        digest = hashlib.sha256()
        for name in SPLIT_NAMES:
            split = self.splits[name]
            digest.update(f"{name}:{split.inputs.shape}:{split.inputs.dtype}".encode())
            digest.update(np.ascontiguousarray(split.inputs).tobytes())
            digest.update(split.labels.tobytes())
        return digest.hexdigest()


def assign_splits(samples: Iterable[bytes], shares: Mapping[SplitName, float]) -> NDArray[np.str_]:
    """The split of each sample, drawn by a hash of its content.

    The same sample always falls into the same split, so duplicates cannot leak from train into
    report, and a set that grows keeps its cut. `shares` are fractions that sum to 1.
    """
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"split shares {dict(shares)} sum to {sum(shares.values())}, not 1")
    names = np.array(list(shares), dtype=np.str_)
    edges = np.cumsum(list(shares.values()))
    draws = [int.from_bytes(hashlib.sha256(sample).digest()[:8], "big") / 2**64 for sample in samples]
    chosen: NDArray[np.str_] = names[np.searchsorted(edges[:-1], draws, side="right")]
    return chosen


def cut(inputs: Array, labels: NDArray[np.int64], shares: Mapping[SplitName, float]) -> dict[SplitName, Split]:
    """Rows -> one Split a name in `shares`, by `assign_splits` on each row's bytes."""
    assigned = assign_splits((row.tobytes() for row in np.ascontiguousarray(inputs)), shares)
    return {name: Split(inputs[assigned == name], labels[assigned == name]) for name in shares}


def load_callable(reference: str, package: str, attribute: str) -> Callable[..., Any]:
    """`name` -> `package.name`'s `attribute`; `module:callable` -> that callable of the user's own.

    Raises ValueError when there is no such thing.
    """
    module_name, _, own = reference.partition(":")
    try:
        module = importlib.import_module(module_name if own else f"{package}.{module_name}")
        loaded: Callable[..., Any] = getattr(module, own or attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{reference!r} names neither a part of {package} nor a module:callable: {error}") from error
    return loaded


def load_task(reference: str, source: Source) -> Task:
    """A built-in Task by name (a module of training.tasks) or the user's own by `module:callable`."""
    task = load_callable(reference, "training.tasks", "load")(source)
    if not isinstance(task, Task):
        raise ValueError(f"{reference!r} returned a {type(task).__name__}, not a Task")
    return task


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.task", description="Write one split of a Task to a .npz file.")
    parser.add_argument("task")
    parser.add_argument("--split", choices=SPLIT_NAMES, default="report")
    parser.add_argument("--save", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--download", action="store_true")
    arguments = parser.parse_args()
    try:
        split = load_task(arguments.task, Source(arguments.data_dir, arguments.download)).splits[arguments.split]
    except ValueError as error:
        sys.exit(f"training.task: {error}")
    np.savez_compressed(arguments.save, inputs=split.inputs, labels=split.labels)
    print(f"{len(split)} rows of {arguments.task}'s {arguments.split} split -> {arguments.save}")


if __name__ == "__main__":
    # Run the imported module's main: a Task built by training.tasks is of its class, not of __main__'s.
    importlib.import_module("training.task").main()
