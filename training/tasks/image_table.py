"""Any Parquet files with a column of encoded images (PNG or JPEG) and one of labels, from a local path, s3:// or gs://.

The image column holds the files' bytes, or a struct whose field `bytes` does, as in data sets of the Hugging Face hub.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from training.data.contents import ImageContent
from training.data.location import open_location
from training.data.pack import Packing, load_packed
from training.data.selection import Classes
from training.data.tables import Columns, TableReader, list_tables
from training.encoding import ImageEncoding
from training.task import Source, Task


def load(
    source: Source,
    *,
    image_column: str = "image",
    label_column: str = "label",
    labels: Sequence[str] | None = None,
    labels_from: int = 0,
    height: int = 64,
    width: int = 64,
    channels: int = 3,
    polarity: Literal["as_is", "light_on_dark"] = "as_is",
    crop_to_content: bool = False,
    margin: float = 0.02,
    max_skipped: float = 0.01,
    name: str = "image_table",
) -> Task:
    """`labels` names the classes, which the label column holds by name or by number counted from `labels_from`;
    without it every label that enough rows bear is a class. The others are as for image_folder.
    """
    place, files = open_location(source.location)
    tables, in_parts = list_tables(place, files, suffixes=(".parquet",))
    encoding = ImageEncoding(height, width, channels, (), polarity, crop_to_content)
    columns = Columns(label_column, (image_column,), "image")
    packing = Packing(
        name=name,
        place=place,
        files=tables,
        files_a_unit=1,
        reader=TableReader(place, columns, in_parts),
        content=ImageContent(encoding),
        settings={
            "kind": "image_table",
            "columns": dataclasses.asdict(columns),
            "encoding": dataclasses.asdict(encoding),
            "labels": labels,
            "labels_from": labels_from,
        },
        classes=Classes(tuple(labels), labels_from) if labels else None,
        max_skipped=max_skipped,
    )
    packed = load_packed(packing, source)
    return Task(name, packed.encoding, packed.splits, margin)
