"""Any folder of PNG or JPEG images with one folder a class, from a local path, s3:// or gs://.

CLASS/name.png, which is cut into the five splits; or train/CLASS/name.png beside val/, test/ or both.
"""

import dataclasses
from typing import Literal

from training.data.contents import ImageContent
from training.data.image_folders import ImageFolderReader, list_image_folder
from training.data.location import open_location
from training.data.pack import Packing, load_packed
from training.data.selection import Classes
from training.encoding import ImageEncoding
from training.task import Source, Task

FILES_AT_ONCE = 256


def load(
    source: Source,
    *,
    height: int = 64,
    width: int = 64,
    channels: int = 3,
    polarity: Literal["as_is", "light_on_dark"] = "as_is",
    crop_to_content: bool = False,
    margin: float = 0.02,
    max_skipped: float = 0.01,
    name: str = "image_folder",
) -> Task:
    """`height`, `width`, `channels`, `polarity` and `crop_to_content` are those of an ImageEncoding."""
    place, files = open_location(source.location)
    found = list_image_folder(place, files)
    encoding = ImageEncoding(height, width, channels, (), polarity, crop_to_content)
    packing = Packing(
        name=name,
        place=place,
        files=found.files,
        files_a_unit=FILES_AT_ONCE,
        reader=ImageFolderReader(place, found.in_parts),
        content=ImageContent(encoding),
        settings={"kind": "image_folder", "encoding": dataclasses.asdict(encoding), "labels": found.labels},
        classes=Classes(found.labels),
        max_skipped=max_skipped,
    )
    packed = load_packed(packing, source)
    return Task(name, packed.encoding, packed.splits, margin)
