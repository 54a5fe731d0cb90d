"""Files of a checkpoint that several processes write, each what it holds, by torch.distributed.checkpoint.

Process r writes `__r_0.distcp`, and the first one then `.metadata`, which says what lies where: the layout of torch's
own FileSystemWriter, so its tools read them, but in a Folder, which may be in an object store, with the hash of each.
"""

import dataclasses
import io
import os
import pickle
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

import torch
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, DEFAULT_SUFFIX, _StorageInfo
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from training.checkpoint.folder import Folder
from training.checkpoint.store import Checkpoint, CheckpointStore, Claim
from training.loop.training import HELD

METADATA_FILE = ".metadata"
# What a pickled Metadata is made of, beside torch's dtypes.
_OF_METADATA = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
}  # fmt: skip


def save_shards(
    store: CheckpointStore,
    state: Mapping[str, Any],
    epoch: int,
    step: int,
    claim: Claim,
    world_size: int,
    group: distributed.ProcessGroup,
) -> None:
    """`store.save` of a `Training.own_state()`; every process calls it with its own, and it speaks in `group` alone.

    The first process writes all but what is HELD, and the manifest, when all have written. Raises what `store.save`
    does, in every process, also where another one could not write.
    """
    numbers = dict(state)
    held = {f"{kind}:{name}": tensor for kind, named in numbers.pop(HELD).items() for name, tensor in named.items()}
    writer = ShardWriter(
        store.folder_of(Checkpoint(epoch, step, claim.number, world_size, 0.0, {})),
        begin=lambda: store.require(claim),
        end=lambda files: store.save(numbers, epoch, step, claim, world_size, files),
    )
    try:
        save(held, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        _, (cause, _) = min(error.failures.items())
        raise cause from error


class ShardWriter(StorageWriter):
    """The first process calls `begin` before anything is written, and `end` with name -> sha256 when all is."""

    def __init__(self, folder: Folder, begin: Callable[[], Any], end: Callable[[Mapping[str, str]], Any]) -> None:
        self._folder, self._begin, self._end = folder, begin, end

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """It writes once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if is_coordinator:
            self._begin()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        names = [f"__{rank}_0{DEFAULT_SUFFIX}" for rank in range(len(plans))]
        return [dataclasses.replace(plan, storage_data=name) for plan, name in zip(plans, names, strict=True)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Where each tensor lies, and the hash of the file that all of this process's lie in."""
        name, lies = plan.storage_data, {}
        done: Future[list[WriteResult]] = Future()
        if not plan.items:  # of what several processes hold, one writes it
            done.set_result([])
            return done
        with self._folder.writing(name) as stream:
            for item in plan.items:
                begin = stream.tell()
                # A copy: of a view all that is behind it would be written.
                tensor = cast(Tensor, planner.resolve_data(item)).detach().clone()
                torch.save(tensor, cast(IO[bytes], stream))
                lies[item.index] = _StorageInfo(name, begin, stream.tell() - begin)
        sha256 = stream.hexdigest()
        done.set_result([WriteResult(index, info.length, (info, sha256)) for index, info in lies.items()])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [(result.index, *result.storage_data) for of_process in results for result in of_process]
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {index: info for index, info, _ in written}
        files = {info.relative_path: sha256 for _, info, sha256 in written}
        files[METADATA_FILE] = self._folder.write(METADATA_FILE, pickle.dumps(metadata))
        self._end(files)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False  # it is made for a Folder, and found by no address


class ShardReader(StorageReader):
    """What a ShardWriter wrote into `folder`, for any number of processes; runs no code from it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lies: Mapping[Any, _StorageInfo] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """It reads one folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata: Metadata = _MetadataUnpickler(io.BytesIO(self._folder.read(METADATA_FILE))).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._lies = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            by_file[self._lies[item.storage_index].relative_path].append(item)
        for name, items in by_file.items():
            with self._folder.open(name) as stream:
                for item in items:
                    info = self._lies[item.storage_index]
                    stream.seek(info.offset)
                    content = io.BytesIO(stream.read(info.length))
                    tensor = torch.load(content, map_location="cpu", weights_only=True)
                    for axis, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                        tensor = tensor.narrow(axis, offset, length)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(tensor)
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _OF_METADATA.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if (module, name) == ("builtins", "getattr"):
            return _member  # by which some versions of Python 3.11 write a member of an Enum
        raise pickle.UnpicklingError(f"{module}.{name} is nothing that says where tensors lie")


def _member(owner: Any, name: str) -> Any:
    """What is read in the place of `getattr`: no attribute, but a memory format by its name."""
    if owner is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"{name} of {owner!r} is nothing that says where tensors lie")
    return _MEM_FORMAT_ENCODING[name]
