"""The seam between a trial and a training: a stretch of epochs, in this process or on workers of its own, and the
state between two of them. All that tuning knows of the loop, of checkpoints and of the launcher stands here.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.checkpoint.folder import Folder
from training.checkpoint.store import STATE_FILE, CheckpointError, CheckpointStore, Found
from training.recipe import Recipe
from training.task import Source, Task, load_task

if TYPE_CHECKING:
    from torch import Tensor

    from training.loop.training import EpochRecord

# After each epoch: its record and the training's state, whose tensors are those being trained.
OnEpoch = Callable[["EpochRecord", dict[str, Any]], None]


@dataclass(frozen=True)
class Workplace:
    """Where a trial trains: in its own process where `workers` is 1, else on Ray Train workers that it starts.

    `storage` is where workers of their own keep checkpoints, and `tracking_uri` is where they log.
    """

    workers: int = 1
    threads: int = 1
    gpus: float = 0.0  # of each worker
    storage: Path = Path(".tandem/tune")
    tracking_uri: str = ""


def train_alone(
    recipe: Recipe, source: Source, workplace: Workplace, state: dict[str, Any] | None, on_epoch: OnEpoch
) -> None:
    """fit() in this process to the recipe's last epoch, going on from `state` where there is one."""
    import torch

    from training.loop.fit import fit
    from training.loop.worker import Worker
    from training.models.pretrained import load_pretrained
    from training.models.untrained import untrained
    from training.tuning.told import Told

    torch.set_num_threads(workplace.threads)
    task = _task(recipe, source)
    module = untrained(recipe, task.encoding)
    if state is None:
        load_pretrained(module, recipe.architecture)
    fit(
        recipe, module, task.encoding, task.splits["train"], task.splits["val"],
        worker=Worker(device="cuda" if workplace.gpus else "cpu"), start=state, watchers=[Told(on_epoch)],
    )  # fmt: skip


def _task(recipe: Recipe, source: Source) -> Task:
    return _loaded(recipe.task, source, tuple(sorted(recipe.task_params.items())))


@functools.lru_cache(maxsize=1)
def _loaded(reference: str, source: Source, params: tuple[tuple[str, Any], ...]) -> Task:
    """A process trains one trial after the other, mostly on the same data."""
    return load_task(reference, source, dict(params))


def train_together(
    recipe: Recipe, source: Source, workplace: Workplace, run_id: str, start: Path | None, until: int, into: Path
) -> Sequence["EpochRecord"]:
    """Ray Train workers from the checkpoint `start` (None: untrained) to the end of epoch `until`.

    Returns the records of the epochs that were trained, none where early stopping had ended it before, and leaves a
    checkpoint in `into`. `recipe` may differ in its rates from what `start` was trained with. A stretch that was cut
    off goes on from its own last checkpoint: its folder is named by all that it begins with.
    """
    from training.launch.job import Compute, TrainJob, identity_of
    from training.launch.run import run_training
    from training.launch.run_folder import RunFolder

    begun = _found(start) if start else None
    began_with = begun.checkpoint.files[STATE_FILE] if begun else ""
    identity = identity_of(recipe, into.parent.name, run_id, str(until), began_with)
    job = TrainJob(recipe, source, workplace.tracking_uri, run_id, identity, until_epoch=until)
    compute = Compute(
        workplace.workers,
        threads=workplace.threads,
        cpus=workplace.threads,
        gpus=workplace.gpus,
        storage=str(workplace.storage.resolve()),
    )
    folder = RunFolder(compute.folder(job))
    if begun and not _has_state(folder.store):
        folder.clear()
        _save(folder.store, begun.state)
    trained = run_training(job, compute)
    found = folder.store.newest()
    assert found is not None, "what was trained has been kept"
    save_state(into, found.state)
    folder.clear()
    return trained.records[begun.state["position"][0] - 1 if begun else 0 :]


def _has_state(store: CheckpointStore) -> bool:
    try:
        return store.newest() is not None
    except CheckpointError:
        return False


def save_state(folder: Path, state: dict[str, Any]) -> None:
    _save(CheckpointStore(Folder(str(folder)), keep=1), state)


def _save(store: CheckpointStore, state: dict[str, Any]) -> None:
    epoch, step = state["position"]
    store.save(state, epoch, step, store.begin_attempt(), world_size=1)


def load_state(folder: Path) -> dict[str, Any]:
    """Inverse of `save_state`; raises ValueError where the folder holds no whole state."""
    return _found(folder).state


def _found(folder: Path) -> Found:
    found = CheckpointStore(Folder(str(folder))).newest()
    if found is None:
        raise CheckpointError(f"{folder} holds no checkpoint")
    return found


def weights_of(state: dict[str, Any]) -> "Mapping[str, Tensor]":
    """Those in training, which another trial would go on from; not the best ones, which are kept beside them."""
    weights: Mapping[str, Tensor] = state["model"]
    return weights
