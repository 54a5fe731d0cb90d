from pathlib import Path

import numpy as np
import pytest

from tests.training.data.own_data import write_images
from training.data.packed import NpyWriter, open_packed
from training.data.published import DataCorruptError
from training.task import SPLIT_NAMES, Source
from training.tasks.image_folder import load


@pytest.mark.parametrize(("shape", "dtype"), [((), "int64"), ((3, 4, 4), "uint8"), ((96,), "int64")])
@pytest.mark.parametrize("batches", [[1], [7, 0, 1000], [0]])
def test_appended_rows_are_a_npy_file(tmp_path: Path, shape: tuple[int, ...], dtype: str, batches: list[int]) -> None:
    random = np.random.default_rng(0)
    written = [random.integers(0, 200, (rows, *shape)).astype(dtype) for rows in batches]
    writer = NpyWriter(tmp_path / "new" / "a.npy", shape, np.dtype(dtype))
    for rows in written:
        writer.append(rows)
    facts = writer.close()
    read = np.load(tmp_path / "new" / "a.npy", allow_pickle=False)
    np.testing.assert_array_equal(read, np.concatenate(written))
    assert read.dtype == dtype
    assert facts["bytes"] == read.nbytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "set")
    load(Source(tmp_path / "set", cache_dir=tmp_path / "cache"), height=4, width=4, channels=1)
    (made,) = (tmp_path / "cache").iterdir()
    return made


def test_large_inputs_are_mapped_and_the_same(folder: Path) -> None:
    whole, mapped = open_packed(folder), open_packed(folder, resident_bytes=100)
    for name in SPLIT_NAMES:
        assert not isinstance(whole.splits[name].inputs, np.memmap)
        assert isinstance(mapped.splits[name].inputs, np.memmap)
        assert not mapped.splits[name].inputs.flags.writeable
        np.testing.assert_array_equal(whole.splits[name].inputs, mapped.splits[name].inputs)
        np.testing.assert_array_equal(whole.splits[name].labels, mapped.splits[name].labels)
        assert not isinstance(mapped.splits[name].labels, np.memmap)


@pytest.mark.parametrize("name", ["train/inputs.npy", "gate/labels.npy"])
def test_an_altered_array_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(
        DataCorruptError, match=f"{name.split('/')[1]} of {name.split('/')[0]} is another than was written"
    ):
        open_packed(folder)


def test_a_mapped_array_of_another_size_is_noticed(folder: Path) -> None:
    path = folder / "train" / "inputs.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(DataCorruptError, match=r"inputs\.npy of train is another"):
        open_packed(folder, resident_bytes=0)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"\xff"])
def test_a_folder_without_its_facts_is_refused(folder: Path, content: bytes | None) -> None:
    if content is None:
        (folder / "packed.json").unlink()
    else:
        (folder / "packed.json").write_bytes(content)
    with pytest.raises(DataCorruptError, match="Delete it to pack anew"):
        open_packed(folder)


def test_no_array_is_unpickled(folder: Path) -> None:
    np.save(folder / "val" / "labels.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataCorruptError, match="allow_pickle=False"):
        open_packed(folder)
