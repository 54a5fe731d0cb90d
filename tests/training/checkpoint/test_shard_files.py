"""Parts of a checkpoint by one process, in every kind of folder; several processes are in tests/training/parallel."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from training.checkpoint.folder import Folder
from training.checkpoint.shard_files import METADATA_FILE, ShardReader, ShardWriter

TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "part of a larger one": torch.arange(1000.0)[10:12],
}


@pytest.fixture(autouse=True)
def _alone() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _write(folder: Folder, tensors: Mapping[str, Tensor] = TENSORS) -> dict[str, str]:
    """Their hashes, as they are told when all is written."""
    told: dict[str, str] = {}
    begun: list[list[str]] = []
    writer = ShardWriter(folder, lambda: begun.append(folder.names()), told.update)
    save(dict(tensors), storage_writer=writer, no_dist=True)
    assert begun == [[]]
    return told


def test_what_was_written_is_read_into_the_tensors_at_hand(folder: Folder) -> None:
    _write(folder)
    found = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    load(found, storage_reader=ShardReader(folder), no_dist=True)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_each_file_is_told_with_its_hash(folder: Folder) -> None:
    told = _write(folder)
    assert sorted(told) == folder.names() == sorted([METADATA_FILE, "__0_0.distcp"])
    assert all(folder.sha256(name) == sha256 for name, sha256 in told.items())


def test_of_a_view_only_what_is_seen_is_written(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    _write(folder, {"seen": torch.zeros(1_000_000)[:2]})
    assert (tmp_path / "__0_0.distcp").stat().st_size < 10_000


def test_torch_itself_reads_what_was_written(tmp_path: Path) -> None:
    _write(Folder(str(tmp_path)))
    found = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    load(found, checkpoint_id=str(tmp_path), no_dist=True)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_what_says_where_tensors_lie_runs_no_code(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "kept"))
    folder.write(METADATA_FILE, pickle.dumps(_Evil(tmp_path / "ran")))
    with pytest.raises(pickle.UnpicklingError, match="nothing that says where tensors lie"):
        ShardReader(folder).read_metadata()
    assert not (tmp_path / "ran").exists()


class _ByName:
    """A member of an Enum as Python 3.11.0 to 3.11.3 write it; or an attribute of something else."""

    def __init__(self, owner: Any, name: str) -> None:
        self._said = owner, name

    def __reduce__(self) -> Any:
        return getattr, self._said


def test_a_memory_format_is_read_by_its_name_and_no_attribute_is(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    members = [member.name for member in _MEM_FORMAT_ENCODING]
    folder.write(METADATA_FILE, pickle.dumps(Metadata({name: _ByName(_MEM_FORMAT_ENCODING, name) for name in members})))
    assert ShardReader(folder).read_metadata().state_dict_metadata == {
        name: _MEM_FORMAT_ENCODING[name] for name in members
    }
    folder.write(METADATA_FILE, pickle.dumps(_ByName(Metadata, "__init__")))
    with pytest.raises(pickle.UnpicklingError, match="nothing that says where tensors lie"):
        ShardReader(folder).read_metadata()
    folder.write(METADATA_FILE, pickle.dumps(_ByName(_MEM_FORMAT_ENCODING, "__members__")))
    with pytest.raises(KeyError):
        ShardReader(folder).read_metadata()


@pytest.mark.parametrize("name", ["os.system", "load", "pickle.loads"])
def test_no_more_of_a_module_is_found_than_it_takes(tmp_path: Path, name: str) -> None:
    folder = Folder(str(tmp_path))
    for module in ("torch", "torch.distributed.checkpoint.metadata"):
        called = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)])
        folder.write(METADATA_FILE, called + name.encode() + b"\x93.")
        with pytest.raises(pickle.UnpicklingError, match="nothing that says where tensors lie"):
            ShardReader(folder).read_metadata()
