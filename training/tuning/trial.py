"""What one trial does in its own process: train by its point, keep a checkpoint an epoch, report, go on from one.

Plain Python: who asks for a trial and hears its reports is Ray Tune (`training/tuning/search.py`) or a test.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.recipe import Recipe, override
from training.task import Source
from training.tuning.ledger import Exploit, Score
from training.tuning.segment import Workplace, load_state, save_state, train_alone, train_together, weights_of
from training.tuning.space import Point, settings

if TYPE_CHECKING:
    from torch import Tensor

    from training.loop.training import EpochRecord

STAND_FILE = "stand.json"
KEPT = 2  # checkpoints of a trial: the newest, and the one before in case that one is torn


@dataclass(frozen=True)
class TrialJob:
    """What is the same for every trial of a sweep.

    `decisions` are the epochs after which the scheduler may stop a trial or let it copy another; workers of their own
    are started anew for each stretch between two of them. `copying`: trials may copy each other (PBT).
    """

    recipe: Recipe
    source: Source
    workplace: Workplace
    decisions: tuple[int, ...] = ()
    copying: bool = False


@dataclass(frozen=True)
class Report:
    """What a trial says after an epoch. `checkpoint` is what it could go on from, at a stretch's end."""

    score: Score
    last_epoch: int  # the epoch at which its recipe ends
    checkpoint: Path | None = None
    exploit: Exploit | None = None  # with the first report after another's checkpoint was taken


@dataclass(frozen=True)
class Stand:
    """Whose checkpoint a folder holds, and what it was trained with last."""

    number: int
    epoch: int
    point: Point


def run_trial(
    job: TrialJob,
    number: int,
    point: Point,
    folder: Path,
    given: Path | None,
    run_id: str,
    say: Callable[[Report], None],
) -> None:
    """Train trial `number` by `point`, from `given` where there is one, else from its newest checkpoint in `folder`.

    `given` may be another trial's: its weights and the optimizer's moments are then gone on with. `say` may end the
    trial by raising. `run_id` is where workers of their own log.
    """
    recipe = override(job.recipe, settings(point))
    start = given or newest_checkpoint(folder)
    stand = _read_stand(start) if start else None
    exploit = None
    if start and stand and stand.number != number:
        exploit = Exploit(stand.epoch, stand.number, weights_digest(weights_of(load_state(start))), point)
    done = stand.epoch if stand else 0

    def close(record: "EpochRecord", checkpoint: Path | None, weights: Mapping[str, "Tensor"]) -> None:
        nonlocal exploit
        if checkpoint:
            _write_stand(checkpoint, Stand(number, record.epoch, point))
            _forget_others(folder, checkpoint)
        digest = weights_digest(weights) if job.copying else ""
        score = Score(record.epoch, record.train_loss, record.val_loss, record.val_accuracy, record.seconds, digest)
        said, exploit = exploit, None
        say(Report(score, recipe.epochs, checkpoint, said))

    if job.workplace.workers == 1:

        def on_epoch(record: "EpochRecord", state: dict[str, Any]) -> None:
            checkpoint = _fresh_checkpoint(folder, record.epoch)
            save_state(checkpoint, state)
            close(record, checkpoint, weights_of(state))

        train_alone(recipe, job.source, job.workplace, load_state(start) if start else None, on_epoch)
        return
    for until in [epoch for epoch in (*job.decisions, recipe.epochs) if done < epoch <= recipe.epochs]:
        checkpoint = _fresh_checkpoint(folder, until)
        records = train_together(recipe, job.source, job.workplace, run_id, start, until, checkpoint)
        if not records:
            return  # it had stopped early, at the end of the stretch before
        for record in records[:-1]:
            close(record, None, {})
        close(records[-1], checkpoint, weights_of(load_state(checkpoint)))
        start = checkpoint


def _fresh_checkpoint(folder: Path, epoch: int) -> Path:
    """An empty place: one of a former life would otherwise lend its stand to new weights."""
    checkpoint = folder / f"epoch-{epoch:05d}"
    shutil.rmtree(checkpoint, ignore_errors=True)
    return checkpoint


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a trial; one that a kill has torn is passed over."""
    for checkpoint in sorted(folder.glob("epoch-*"), reverse=True):
        try:
            load_state(checkpoint)
            _read_stand(checkpoint)
        except (OSError, ValueError):
            continue
        return checkpoint
    return None


def _read_stand(checkpoint: Path) -> Stand:
    return Stand(**json.loads((checkpoint / STAND_FILE).read_text()))


def _write_stand(checkpoint: Path, stand: Stand) -> None:
    (checkpoint / STAND_FILE).write_text(json.dumps(asdict(stand)))


def _forget_others(folder: Path, newest: Path) -> None:
    """All but the newest and its forerunner; what lies beyond it is from before the trial took another's place."""
    earlier = sorted(path for path in folder.glob("epoch-*") if path < newest)
    later = [path for path in folder.glob("epoch-*") if path > newest]
    for path in [*earlier[: -(KEPT - 1)], *later]:
        shutil.rmtree(path, ignore_errors=True)


def weights_digest(weights: Mapping[str, "Tensor"]) -> str:
    """sha256 over every tensor's name, type, shape and bytes; empty for none."""
    if not weights:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: "Tensor") -> bytes:
    import torch

    raw: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return bytes(raw.tobytes())
