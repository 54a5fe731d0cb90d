import dataclasses
import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from training.data.published import DataMissingError, PublishedFile, PublishedSet
from training.data.readers import row_keys
from training.task import SPLIT_NAMES, Source, Task, load_task
from training.tasks.cifar10 import ENCODING, PUBLISHED, load

pytestmark = pytest.mark.slow


@pytest.fixture
def batches() -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    contents = {}
    for file in PUBLISHED.files:
        data = generator.integers(0, 256, (80, 3072), dtype=np.uint8)
        batch = {b"data": data, b"labels": [int(row[0]) % 10 for row in data], b"batch_label": b"made"}
        contents[file.name] = pickle.dumps(batch, protocol=3)
    return contents


@pytest.fixture
def published(batches: dict[str, bytes]) -> PublishedSet:
    files = tuple(PublishedFile(name, hashlib.sha256(content).hexdigest()) for name, content in batches.items())
    return dataclasses.replace(PUBLISHED, files=files)


def assert_whole(task: Task) -> None:
    assert sum(len(task.splits[name]) for name in ("train", "val", "calibration")) == 400
    assert sum(len(task.splits[name]) for name in ("gate", "report")) == 80
    for split in task.splits.values():
        np.testing.assert_array_equal(split.inputs[:, 0, 0, 0] % 10, split.labels)


def test_batches_lying_loose_are_read(tmp_path: Path, batches: dict[str, bytes], published: PublishedSet) -> None:
    for name, content in batches.items():
        (tmp_path / name).write_bytes(content)
    assert_whole(load(Source(tmp_path), published))


def test_batches_in_the_folder_of_the_unpacked_tar_are_read(
    tmp_path: Path, batches: dict[str, bytes], published: PublishedSet
) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name, content in batches.items():
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(content)
    assert_whole(load(Source(tmp_path), published))


def test_batches_inside_the_tar_are_read(tmp_path: Path, batches: dict[str, bytes], published: PublishedSet) -> None:
    tar_path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(tar_path, "w:gz") as tar:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive = PublishedFile(tar_path.name, hashlib.sha256(tar_path.read_bytes()).hexdigest())
    assert_whole(load(Source(tmp_path), dataclasses.replace(published, archive=archive)))


def test_a_lost_batch_is_named(tmp_path: Path, batches: dict[str, bytes], published: PublishedSet) -> None:
    for name, content in batches.items():
        if name != "data_batch_4":
            (tmp_path / name).write_bytes(content)
    with pytest.raises(DataMissingError, match=r"CIFAR-10: data_batch_4 not found in .*--download"):
        load(Source(tmp_path), published)


@pytest.fixture(scope="module")
def task(real_data: Path) -> Task:
    return load_task("cifar10", Source(real_data))


def test_every_published_row_is_in_one_split(task: Task) -> None:
    assert sum(len(task.splits[name]) for name in ("train", "val", "calibration")) == 50_000
    assert sum(len(task.splits[name]) for name in ("gate", "report")) == 10_000
    keys = [key for name in SPLIT_NAMES for key in row_keys(task.splits[name].inputs)]
    assert len(set(keys)) == 60_000


def test_classes_are_balanced_as_the_authors_say(task: Task) -> None:
    train = np.concatenate([task.splits[name].labels for name in ("train", "val", "calibration")])
    test = np.concatenate([task.splits[name].labels for name in ("gate", "report")])
    np.testing.assert_array_equal(np.bincount(train), [5000] * 10)
    np.testing.assert_array_equal(np.bincount(test), [1000] * 10)


def test_channels_are_red_green_blue(task: Task) -> None:
    # Ships and airplanes are seen before sea and sky: blue is the strongest channel of their mean picture.
    train = task.splits["train"]
    for label in ("airplane", "ship"):
        red, green, blue = train.inputs[train.labels == ENCODING.labels.index(label)].mean(axis=(0, 2, 3))
        assert blue > green > red


def test_weights_that_saw_all_of_train_are_judged_by_parts_of_test(real_data: Path) -> None:
    task = load_task("cifar10", Source(real_data), {"calibration_from": "test"})
    counts = {name: len(task.splits[name]) for name in ("calibration", "gate", "report")}
    assert counts == {"calibration": 1000, "gate": 4000, "report": 5000}
    assert len(task.splits["train"]) + len(task.splits["val"]) == 50_000


def test_another_place_to_calibrate_from_is_refused(real_data: Path) -> None:
    with pytest.raises(ValueError, match="parameter calibration_from is 'val': Input should be 'train' or 'test'"):
        load_task("cifar10", Source(real_data), {"calibration_from": "val"})
