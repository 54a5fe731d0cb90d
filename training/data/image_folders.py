"""A folder of images in one folder a class: CLASS/1.png, or train/CLASS/1.png beside val/ or test/."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from training.data.contents import MAX_IMAGE_BYTES
from training.data.location import File, Place
from training.data.parts import WHOLE, part_of_folder
from training.data.published import DataError, DataMissingError
from training.data.rows import Fault, Row

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg")
READERS = 8
AHEAD = 16


@dataclass(frozen=True)
class ImageFolder:
    """`files` are the images, `labels` the class folders, of the train part where there are parts."""

    files: tuple[File, ...]
    labels: tuple[str, ...]
    in_parts: bool


@dataclass(frozen=True)
class ImageFolderReader:
    """Paths of images -> Rows with their bytes, read by threads a few files ahead: far storage answers slowly."""

    place: Place
    in_parts: bool

    def __call__(self, paths: Sequence[str]) -> Iterator[Row]:
        with ThreadPoolExecutor(READERS) as threads:
            for first in range(0, len(paths), AHEAD):
                yield from threads.map(self._row, paths[first : first + AHEAD])

    def _row(self, path: str) -> Row:
        part, label = _place_of(path, self.in_parts)
        if label is None:
            return Row(path, part, None, None, Fault("mislabelled", "it lies in no class folder"))
        try:
            return Row(path, part, label, self.place.read(path, MAX_IMAGE_BYTES + 1))
        except OSError as error:
            raise DataError(f"{path} in {self.place.location} cannot be read: {error}") from error


def list_image_folder(place: Place, files: Sequence[File]) -> ImageFolder:
    """The images among `files` and their classes; raises DataMissingError where there are none.

    Other files are passed over, and so is a part without any class folder, as are test images without labels.
    """
    images = [file for file in files if file.path.lower().endswith(SUFFIXES)]
    in_parts = any(part_of_folder(file.path) == "train" for file in images)
    if in_parts:
        labelled = {part for file in images for part, label in [_place_of(file.path, True)] if label is not None}
        images = [file for file in images if part_of_folder(file.path) in labelled]
    if len(images) < len(files):
        logger.warning("%s: %d files are passed over", place.location, len(files) - len(images))
    named = [_place_of(file.path, in_parts) for file in images]
    labels = {label for part, label in named if label is not None and part in (WHOLE, "train")}
    if not labels:
        raise DataMissingError(
            f"{place.location} holds no image in a class folder: put them as CLASS/name.png (or .jpg), "
            "or as train/CLASS/name.png and test/CLASS/name.png"
        )
    return ImageFolder(tuple(images), tuple(sorted(labels)), in_parts)


def _place_of(path: str, in_parts: bool) -> tuple[str, str | None]:
    """Part and class of an image, by its folders."""
    part = part_of_folder(path) if in_parts else None
    label, separator, _ = (path.partition("/")[2] if part else path).partition("/")
    return part or WHOLE, label if separator else None
