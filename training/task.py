"""Task: a learning problem, with its Encoding, its five splits and the margin it is gated by.

The splits are never mixed: train; val (early stopping, recipe choice); calibration (quantizer
ranges, temperature, threshold); gate (promotion); report (read for published figures only).
"""

import argparse
import hashlib
import importlib
import inspect
import logging
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.address import absolute_location, is_uri
from training.encoding import Array, Encoder, Encoding, TextEncoding

SplitName = Literal["train", "val", "calibration", "gate", "report"]
Reader = Literal["auto", "local", "ray"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "calibration", "gate", "report")


@dataclass(frozen=True)
class Source:
    """Where a Task finds its files, and how it reads them.

    `location` is a folder, a file, or an address such as s3://bucket/folder; `download` allows fetching published
    files that are missing. A source of one's own is cleaned and packed into `cache_dir` once, which every node must
    see: `reader` says by what, this process or Ray Data; "auto" takes Ray Data for what is large or far away.
    """

    location: str | Path | None = None
    download: bool = False
    reader: Reader = "auto"
    cache_dir: Path = field(default_factory=lambda: Path(".tandem/data").resolve())

    def __post_init__(self) -> None:
        if re.match(r"\w+://[^/]*@", str(self.location)):
            raise ValueError("the location holds a name or key before an @: keep credentials in the environment")

    @property
    def folder(self) -> Path | None:
        """The location as a local path; raises ValueError where it is an address."""
        if self.location is not None and is_uri(self.location):
            raise ValueError(f"{self.location} is no local folder: this task reads the published files from one")
        return Path(self.location) if self.location is not None else None


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
            # By their buffers: a set that is memory-mapped need not fit into memory.
            digest.update(np.ascontiguousarray(split.inputs).data)
            digest.update(np.ascontiguousarray(split.labels).data)
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


def load_task(reference: str, source: Source, params: Mapping[str, Any] = {}) -> Task:
    """A built-in Task by name (a module of training.tasks) or the user's own by `module:callable`.

    `params` become its keyword-only arguments, read as their annotations say. Raises ValueError on an unknown
    parameter, listing what there is, and on a value of the wrong type.
    """
    load = load_callable(reference, "training.tasks", "load")
    task = load(source, **_read_params(reference, load, params))
    if not isinstance(task, Task):
        raise ValueError(f"{reference!r} returned a {type(task).__name__}, not a Task")
    return task


def _read_params(reference: str, load: Callable[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    if not params:
        return {}
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    hints = typing.get_type_hints(load)
    known = [p.name for p in inspect.signature(load).parameters.values() if p.kind is p.KEYWORD_ONLY]
    read = {}
    for name, value in params.items():
        if name not in known:
            raise ValueError(f"task {reference!r} has no parameter {name!r}; there is: {', '.join(known) or 'none'}")
        kind = TypeAdapter(hints.get(name, Any), config=ConfigDict(coerce_numbers_to_str=True))
        try:
            read[name] = kind.validate_python(value)
        except ValidationError as error:
            said = "; ".join(line["msg"] for line in error.errors())
            raise ValueError(f"task {reference!r}: parameter {name} is {value!r}: {said}") from error
    return read


def read_settings(reference: str, settings: Sequence[str]) -> Mapping[str, Any]:
    """`["height=32", ...]` as a recipe reads them behind `task_params`."""
    from training.models.architecture import Architecture
    from training.recipe import Recipe, override

    recipe = Recipe(reference, Architecture("none"), epochs=1)
    return override(recipe, [f"task_params.{setting}" for setting in settings]).task_params


def main() -> None:
    parser = argparse.ArgumentParser(prog="training.task", description="Look at a Task; write one split to a file.")
    parser.add_argument("task")
    parser.add_argument("--split", choices=SPLIT_NAMES, default="report")
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="where the split is written to")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the task")
    parser.add_argument("--data-dir", type=absolute_location, metavar="PLACE", help="folder, file, s3:// or gs://")
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--reader", choices=typing.get_args(Reader), default="auto", help="of one's own data")
    parser.add_argument("--data-cache", type=Path, default=".tandem/data", help="where one's own data are packed")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.path.insert(0, str(Path.cwd()))  # the user's own module:callable lies where the command is run
    try:
        source = Source(arguments.data_dir, arguments.download, arguments.reader, arguments.data_cache.resolve())
        task = load_task(arguments.task, source, read_settings(arguments.task, arguments.set))
    except ValueError as error:
        sys.exit(f"training.task: {error}")
    print(f"{task.name}: " + ", ".join(f"{len(task.splits[name])} {name}" for name in SPLIT_NAMES))
    if arguments.save:
        split = task.splits[arguments.split]
        np.savez_compressed(arguments.save, inputs=split.inputs, labels=split.labels)
        print(f"{len(split)} rows of {arguments.task}'s {arguments.split} split -> {arguments.save}")


if __name__ == "__main__":
    # Run the imported module's main: a Task built by training.tasks is of its class, not of __main__'s.
    importlib.import_module("training.task").main()
