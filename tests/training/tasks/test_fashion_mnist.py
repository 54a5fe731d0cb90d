import dataclasses
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.published import DataCorruptError, PublishedFile, PublishedSet
from training.data.readers import row_keys
from training.task import SPLIT_NAMES, Source, Task, load_task
from training.tasks.fashion_mnist import ENCODING, PUBLISHED, load

pytestmark = pytest.mark.slow


def idx_gz(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def write_set(folder: Path, images: np.ndarray, labels: np.ndarray, test_labels: np.ndarray) -> PublishedSet:
    """A set of the same file names with other contents: `images` in the train part, their reverse in the test part."""
    contents = [idx_gz(images), idx_gz(labels), idx_gz(255 - images), idx_gz(test_labels)]
    files = []
    for file, content in zip(PUBLISHED.files, contents, strict=True):
        (folder / file.name).write_bytes(content)
        files.append(PublishedFile(file.name, hashlib.sha256(content).hexdigest()))
    return dataclasses.replace(PUBLISHED, files=tuple(files))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (400, 28, 28), dtype=np.uint8)


def test_images_keep_their_labels_through_the_cut(tmp_path: Path, images: np.ndarray) -> None:
    labels = images[:, 0, 0] % 10
    task = load(Source(tmp_path), write_set(tmp_path, images, labels, (255 - images)[:, 0, 0] % 10))
    for split in task.splits.values():
        np.testing.assert_array_equal(split.inputs[:, 0, 0, 0] % 10, split.labels)
    assert sum(len(task.splits[name]) for name in ("train", "val", "calibration")) == 400
    assert sum(len(task.splits[name]) for name in ("gate", "report")) == 400


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    published = write_set(tmp_path, images, np.zeros(399), np.zeros(400))
    with pytest.raises(DataCorruptError, match=r"400 images.*399 labels"):
        load(Source(tmp_path), published)


@pytest.fixture(scope="module")
def task(real_data: Path) -> Task:
    return load_task("fashion_mnist", Source(real_data))


def test_every_published_row_is_in_one_split(task: Task) -> None:
    assert sum(len(task.splits[name]) for name in ("train", "val", "calibration")) == 60_000
    assert sum(len(task.splits[name]) for name in ("gate", "report")) == 10_000
    keys = [key for name in SPLIT_NAMES for key in row_keys(task.splits[name].inputs)]
    assert len(set(keys)) == 70_000


def test_classes_are_those_of_the_authors(task: Task) -> None:
    labels = np.concatenate([split.labels for split in task.splits.values()])
    np.testing.assert_array_equal(np.bincount(labels), [7000] * 10)
    for name, share in {"train": 5400, "val": 300, "calibration": 300, "gate": 500, "report": 500}.items():
        counts = np.bincount(task.splits[name].labels)  # type: ignore[index]
        assert np.all(np.abs(counts - share) < 5 * np.sqrt(share)), f"{name}: {counts}"


def test_a_picture_of_the_set_sent_as_png_reaches_the_model_unchanged(task: Task) -> None:
    encoder = task.encoder()
    for image in task.splits["report"].inputs[:1000]:
        file = io.BytesIO()
        Image.fromarray(image[0]).save(file, "PNG")
        np.testing.assert_array_equal(encoder.encode(file.getvalue()), image)


def test_a_picture_on_white_reaches_the_model_on_black(task: Task) -> None:
    image = task.splits["report"].inputs[0]
    file = io.BytesIO()
    Image.fromarray(255 - image[0]).save(file, "PNG")
    np.testing.assert_array_equal(task.encoder().encode(file.getvalue()), image)


def test_published_checksums_are_those_of_the_authors(real_data: Path) -> None:
    md5 = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    contents = PUBLISHED.read(Source(real_data))
    assert {name: hashlib.md5(content).hexdigest() for name, content in contents.items()} == md5
    assert ENCODING.labels[9] == "Ankle boot"
