"""Any CSV, TSV, JSON lines or Parquet files with a text and a label column, from a local path, s3:// or gs://.

The tokenizer is learned from the train split, or that of a language model, or a file; what it does to a text the server
does too.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from training.address import is_uri
from training.data.contents import TextContent
from training.data.location import open_location
from training.data.pack import Packing, load_packed
from training.data.published import DataMissingError
from training.data.selection import Classes
from training.data.tables import Columns, TableReader, list_tables
from training.data.tokenizer import Vocabulary
from training.models.tokenizer import read_tokenizer
from training.task import Source, Task

MAX_TOKENIZER_BYTES = 64 * 2**20


def load(
    source: Source,
    *,
    text_column: str = "text",
    label_column: str = "label",
    title_column: str | None = None,
    header: bool = True,
    labels: Sequence[str] | None = None,
    labels_from: int = 0,
    max_tokens: int = 128,
    vocabulary: Vocabulary = "pieces",
    vocabulary_size: int = 16_000,
    tokenizer: str | None = None,
    margin: float = 0.02,
    max_skipped: float = 0.01,
    name: str = "text_table",
) -> Task:
    """The title, where there is one, goes before the text. Without a `header` a CSV's columns are named 1, 2, 3...

    `labels` names the classes, which the label column holds by name or by number counted from `labels_from`; without
    it every label that enough rows bear is a class. A `tokenizer` takes the place of one of `vocabulary_size` word
    pieces or words: a tokenizer.json at any location, or a language model's own, by its folder or its name on the hub.
    The model's vocabulary must be no smaller.
    """
    place, files = open_location(source.location)
    tables, in_parts = list_tables(place, files)
    given, pad_id = _read_tokenizer(tokenizer) if tokenizer else (None, None)
    columns = Columns(label_column, (*([title_column] if title_column else []), text_column), "text", header)
    content = TextContent(max_tokens, vocabulary_size, vocabulary, given, pad_id)
    packing = Packing(
        name=name,
        place=place,
        files=tables,
        files_a_unit=1,
        reader=TableReader(place, columns, in_parts),
        content=content,
        settings={
            "kind": "text_table",
            "columns": dataclasses.asdict(columns),
            "max_tokens": max_tokens,
            "tokenizer": [hashlib.sha256(given).hexdigest(), pad_id] if given else [vocabulary, vocabulary_size],
            "labels": labels,
            "labels_from": labels_from,
        },
        classes=Classes(tuple(labels), labels_from) if labels else None,
        max_skipped=max_skipped,
    )
    packed = load_packed(packing, source)
    return Task(name, packed.encoding, packed.splits, margin, packed.files)


def _read_tokenizer(location: str) -> tuple[bytes, int | None]:
    """A tokenizer and the id that pads, where what it was read from says which: a language model's folder or name."""
    if not (is_uri(location) or location.endswith(".json") or Path(location).is_file()):
        found = read_tokenizer(location)
        return found.content, found.pad_id
    place, files = open_location(location)
    if len(files) != 1:
        raise DataMissingError(f"tokenizer is {location}: give one file, a tokenizer.json of `tokenizers`")
    return place.read(files[0].path, MAX_TOKENIZER_BYTES), None
