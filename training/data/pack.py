"""Packing: a source is read once, cleaned, encoded and cut into splits; the next training finds the packed arrays."""

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training.data.ingest import inside_a_worker, read_here, read_on_ray
from training.data.location import File, Place, digest_of
from training.data.packed import (
    FACTS_FILE,
    FORMAT,
    SKIPPED_FILE,
    Arrays,
    Packed,
    open_packed,
    write_facts,
    write_splits,
)
from training.data.progress import progress
from training.data.published import DataCorruptError, DataError
from training.data.rows import Content, Examiner, RowReader
from training.data.selection import Classes, Selection, select
from training.data.skipping import (
    check_skipped,
    count_faults,
    name_faults,
    refuse_many,
    tell_skipped,
    write_skipped,
)
from training.data.stage import Skipped, Staged, stage
from training.task import SPLIT_NAMES, Source, SplitName

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

# From this size on a source is read by Ray Data, whose start costs some seconds.
RAY_FROM_BYTES = 256 * 2**20
SHOWN_FROM_ROWS = 5_000  # a small source is read before one would look


class Encodable(Content, Protocol):
    def begin(self, labels: tuple[str, ...], train: Iterable[bytes]) -> Arrays: ...


@dataclass(frozen=True)
class Packing:
    """A source and how it is read: `files` lie in `place`, `files_a_unit` of which are read in one go.

    `settings` is all that decides, beside the files, what comes out: it is part of the packed set's identity.
    Of all items at most the share `max_skipped` may be unusable.
    """

    name: str
    place: Place
    files: Sequence[File]
    files_a_unit: int
    reader: RowReader
    content: Encodable
    settings: Mapping[str, Any]
    classes: Classes | None = None
    max_skipped: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.max_skipped < 1:
            raise ValueError(f"max_skipped is {self.max_skipped}: it is a share of all items, 0 <= x < 1")

    def identity(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "location": self.place.location,
            "files": len(self.files),
            "bytes": sum(file.size_bytes for file in self.files),
            "files_sha256": digest_of(self.files),
            "settings": dict(self.settings),
        }

    def known_items(self) -> int:
        """How many items there are, where each is a file of its own; 0 where only reading can tell."""
        return len(self.files) if self.files_a_unit > 1 else 0

    def units(self) -> list[list[str]]:
        paths = [file.path for file in self.files]
        return [paths[first : first + self.files_a_unit] for first in range(0, len(paths), self.files_a_unit)]

    def tables(self, source: Source) -> "Iterator[pa.Table]":
        examine = Examiner(self.reader, self.content)
        large = self.place.remote or sum(file.size_bytes for file in self.files) >= RAY_FROM_BYTES
        on_ray = source.reader == "ray" or (source.reader == "auto" and large and not inside_a_worker())
        return (read_on_ray if on_ray else read_here)(examine, self.units())


def load_packed(packing: Packing, source: Source) -> Packed:
    """The packed set of a source, from the cache where neither source nor settings have changed.

    Raises TooManySkippedError, DataCorruptError where a file cannot be read on, and other DataErrors where the
    source makes no Task.
    """
    identity = packing.identity()
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    target = source.cache_dir / f"{packing.name}-{digest[:16]}"
    packed = _open_kept(target)
    if packed is None:
        packed = _pack(packing, identity, source, target)
    else:
        check_skipped(packed.facts["items"], packed.facts["skipped"], packing.max_skipped, target / SKIPPED_FILE)
    return packed


def _open_kept(target: Path) -> Packed | None:
    if not target.exists():
        return None
    try:
        return open_packed(target)
    except DataCorruptError as error:
        logger.warning("%s Packing it anew", error)
        shutil.rmtree(target)
        return None


def _pack(packing: Packing, identity: Mapping[str, Any], source: Source, target: Path) -> Packed:
    source.cache_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=source.cache_dir, prefix=".packing-") as scratch:
        made = Path(scratch) / "packed"
        made.mkdir()
        with progress(f"reading {packing.name}", packing.known_items(), "thousand rows", 1e3) as show:
            staged = stage(_shown(packing.tables(source), show), Path(scratch) / "rows.arrow")
        skipped = list(staged.skipped)
        items = len(staged) + len(skipped)
        refused = target.with_name(f"{target.name}.{SKIPPED_FILE}")
        try:
            selection = select(staged, packing.classes)
        except DataError:
            refuse_many(items, skipped, packing.max_skipped, refused)  # which says more, where it is why
            raise
        skipped += name_faults(staged, selection.faults)
        refuse_many(items, skipped, packing.max_skipped, refused)
        train = _contents_of(staged, selection, "train")
        arrays = packing.content.begin(selection.labels, train)
        written = write_splits(staged, selection, arrays, made)
        skipped += name_faults(staged, written.faults)
        refuse_many(items, skipped, packing.max_skipped, refused)
        write_skipped(skipped, made / SKIPPED_FILE)
        facts = {
            "identity": dict(identity),
            "items": items,
            "skipped": count_faults(skipped),
            "held_out": selection.held_out,
            "statistics": arrays.statistics(),
        }
        write_facts(made, arrays, written, facts)
        _move(made, target)
    refused.unlink(missing_ok=True)
    packed = open_packed(target)
    _report(packing.name, packed, skipped, target, time.monotonic() - began)
    return packed


def _shown(tables: "Iterable[pa.Table]", show: Callable[[int], None]) -> "Iterator[pa.Table]":
    rows = 0
    for table in tables:
        rows += len(table)
        if rows >= SHOWN_FROM_ROWS:
            show(rows)
        yield table


def _contents_of(staged: Staged, selection: Selection, split: SplitName) -> Iterator[bytes]:
    wanted = selection.splits_N == split
    for first, contents in staged.contents():
        yield from (content for row, content in enumerate(contents, start=first) if wanted[row])


def _move(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        # Another process, a worker beside this one, has packed the same source meanwhile.
        if not (target / FACTS_FILE).is_file():
            raise


def _report(name: str, packed: Packed, skipped: Sequence[Skipped], target: Path, seconds: float) -> None:
    if skipped:
        logger.warning("%s: skipped %s", name, tell_skipped(packed.facts["items"], skipped))
    if packed.facts["held_out"]:
        logger.info("%s: %d rows to train with are left to the held-out parts", name, packed.facts["held_out"])
    if packed.facts["statistics"]:
        told = ", ".join(f"{key} {value}" for key, value in packed.facts["statistics"].items())
        logger.info("%s: %s", name, told)
    sizes = ", ".join(f"{len(packed.splits[split])} {split}" for split in SPLIT_NAMES)
    logger.info("%s: packed %s in %.0f s -> %s", name, sizes, seconds, target)
