"""Selection: what the next round takes out of a model, by an amount or by a speed-up to reach."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from optimization.prune.allocation import choose
from optimization.prune.counts import count
from optimization.prune.criteria import unit_scores
from optimization.prune.cut import cut
from optimization.prune.dependencies import find_channels
from optimization.prune.group import Channels, Kept, PruneError
from optimization.prune.latency import Stopwatch, Trial, reach_speedup
from optimization.prune.rebuild import rebuilt, smaller
from optimization.prune.settings import Prune, share_left
from training.models.architecture import Architecture
from training.task import Task


@dataclass(frozen=True)
class Selection:
    """The model after it, as data; `widths` are of its groups, of a block 1, or 0 where it is out.

    `trials` are what was measured where a speed-up was asked for.
    """

    widths: Mapping[str, int]
    architecture: Architecture
    weights: Mapping[str, Tensor]
    trials: tuple[Trial, ...] = ()


class Selector(Protocol):
    """Selects round by round; `widths` are those of the whole model, `left` names what has to stay, with the reason."""

    @property
    def widths(self) -> Mapping[str, int]: ...

    @property
    def left(self) -> Mapping[str, str]: ...

    def select(self, module: nn.Module, architecture: Architecture, number: int) -> Selection:
        """What round `number`, counted from 1, leaves of `module`, which `architecture` builds.

        Raises PruneError where the settings take nothing out or the speed-up cannot be reached.
        """


class ChannelSelector:
    """Selects round by round. Widths and speed-ups are always against `whole`, the model before the first."""

    def __init__(self, whole: nn.Module, task: Task, settings: Prune) -> None:
        self._task, self._settings = task, settings
        inputs = task.splits["train"].inputs
        self._rows = torch.from_numpy(inputs[:4].copy())
        self._channels = find_channels(whole, self._rows)
        self.widths, self.left = self._channels.widths, self._channels.left
        self._stopwatch = (
            Stopwatch(whole, task.encoding, inputs[:64], settings.batch_size) if settings.speedup else None
        )

    def select(self, module: nn.Module, architecture: Architecture, number: int) -> Selection:
        settings = self._settings
        channels = find_channels(module, self._rows) if number > 1 else self._channels
        scores = unit_scores(module, channels.groups, settings, self._task.splits["train"])

        def keep(amount: float) -> Kept:
            return choose(scores, self.widths, 1 - amount, settings.allocation, settings.round_to)

        trials: tuple[Trial, ...] = ()
        if settings.amount is not None:
            kept = keep(1 - share_left(settings.amount, number, settings.rounds))
        else:
            kept, trials = self._reach(module, architecture, channels, keep, number)
        widths = _widths(channels, kept)
        if number == settings.rounds and widths == self.widths:
            raise PruneError(f"nothing is taken out: every width rounds to itself by round_to={settings.round_to}")
        made = cut(module, channels.groups, kept)
        return Selection(widths, smaller(architecture, made), made.weights, trials)

    def _reach(
        self,
        module: nn.Module,
        architecture: Architecture,
        channels: Channels,
        keep: Callable[[float], Kept],
        number: int,
    ) -> tuple[Kept, tuple[Trial, ...]]:
        """The round's part of the way to the speed-up, by measurement; the same widths are measured once."""
        settings, stopwatch = self._settings, self._stopwatch
        assert settings.speedup is not None and stopwatch is not None
        measured: dict[tuple[int, ...], Trial] = {}

        def attempt(amount: float) -> Trial:
            kept = keep(amount)
            widths = _widths(channels, kept)
            key = tuple(widths.values())
            if key not in measured:
                trial = rebuilt(architecture, self._task.encoding, cut(module, channels.groups, kept))
                counts, speedup = count(trial, self._rows[:1]), stopwatch.speedup(trial)
                measured[key] = Trial(amount, widths, counts, speedup)
                print(f"{amount:.0%} of the channels out: {measured[key].said}", flush=True)
            return dataclasses.replace(measured[key], amount=amount)

        best, trials = reach_speedup(settings.speedup ** (number / settings.rounds), attempt)
        return keep(best.amount), trials


def _widths(channels: Channels, kept: Kept) -> dict[str, int]:
    return {group.name: int(kept[group.name].sum()) if group.name in kept else group.units for group in channels.groups}
