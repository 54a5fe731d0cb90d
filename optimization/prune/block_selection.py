"""BlockSelector: whole blocks out of a model, one by one, each time the one without which its answers change least.

A block can go where what it makes has the shape of what it reads, as in most of a ResNet. What a channel less saves is
often lost to how a convolution is tiled; a block less saves its whole time. Where time is the aim, the change is
weighed against the time that the block is measured to save: blocks of as many MACs differ by half in it.

Shape suffixes: B rows, C classes.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from optimization.prune.counts import count
from optimization.prune.group import PruneError
from optimization.prune.latency import Stopwatch, Trial
from optimization.prune.selection import Selection
from optimization.prune.settings import Prune, share_left
from training.models.architecture import Architecture, build
from training.models.blocks import Skipped, blocks, without
from training.task import Task

ROWS_AT_ONCE = 64
LEAST_SAVED = 1e-3  # of the whole time: less cannot be told from nothing


class BlockSelector:
    """Selects round by round (see `Selector`). Answers and speed-ups are always against `whole`'s."""

    def __init__(self, whole: nn.Module, task: Task, settings: Prune) -> None:
        self._settings, self._task = settings, task
        self._row = torch.from_numpy(task.splits["train"].inputs[:1].copy())
        val = task.splits["val"].inputs
        # Some sets lie in the order of their classes.
        drawn = np.sort(np.random.default_rng(settings.seed).permutation(len(val))[: settings.block_rows])
        self._rows = torch.from_numpy(val[drawn])
        found, self.left = find_blocks(whole, self._rows[:2])
        self.widths = dict.fromkeys(found, 1)
        if not found:
            raise PruneError("no block can be left out: none makes what has the shape of what it reads")
        self._answers_BC = _answers(whole, self._rows)
        self._stopwatch = (
            Stopwatch(whole, task.encoding, task.splits["train"].inputs[:64], settings.batch_size)
            if settings.speedup
            else None
        )
        self._saved = self._shares_of_time(whole)

    def select(self, module: nn.Module, architecture: Architecture, number: int) -> Selection:
        settings, total = self._settings, len(self.widths)
        out = [name for name in self.widths if isinstance(module.get_submodule(name), Skipped)]
        trials: tuple[Trial, ...] = ()
        if settings.amount is not None:
            wanted = round(total * (1 - share_left(settings.amount, number, settings.rounds)))
            if number == settings.rounds and wanted == 0:
                raise PruneError(f"nothing is taken out: {settings.amount:.0%} of {total} blocks is less than one")
            while len(out) < wanted:
                out.append(self._worst(module, out))
        else:
            assert settings.speedup is not None
            trials = tuple(self._faster(module, architecture, out, settings.speedup ** (number / settings.rounds)))
        made = _smaller(architecture, out)
        weights = {name: kept for name, kept in module.state_dict().items() if not _is_of(name, out)}
        return Selection(self._widths(out), made, weights, trials)

    def _faster(self, module: nn.Module, architecture: Architecture, out: list[str], target: float) -> Iterator[Trial]:
        """Lengthens `out` until the lower end of the measured speed-up is `target`."""
        assert self._stopwatch is not None
        reached = self._stopwatch.speedup(module).lower if out else 1.0
        while reached < target:
            if len(out) == len(self.widths):
                raise PruneError(
                    f"without any of its {len(out)} blocks the model is at least {reached:.2f}x as fast, not "
                    f"{target:.2f}x: lower speedup, or take out channels"
                )
            out.append(self._worst(module, out))
            trial = build(_smaller(architecture, out), self._task.encoding).eval()
            made = Trial(
                len(out) / len(self.widths), self._widths(out), count(trial, self._row), self._stopwatch.speedup(trial)
            )
            reached = made.speedup.lower
            print(f"without {', '.join(out)}: {made.said}", flush=True)
            yield made

    def _widths(self, out: list[str]) -> dict[str, int]:
        return {name: int(name not in out) for name in self.widths}

    def _shares_of_time(self, whole: nn.Module) -> dict[str, float]:
        """What each block out saves of the whole model's time, of which blocks of the same shapes save the same; 1 for
        every block where time is not the aim.
        """
        if self._stopwatch is None:
            return dict.fromkeys(self.widths, 1.0)
        shapes, saved = _shapes(whole, self._rows[:2]), {}
        kinds: dict[str, float] = {}
        for name in self.widths:
            block = whole.get_submodule(name)
            kind = str((shapes[id(block)], [tuple(weight.shape) for weight in block.parameters()]))
            if kind not in kinds:
                with without(whole, [name]):
                    kinds[kind] = max(LEAST_SAVED, 1 - 1 / self._stopwatch.speedup(whole).ratio)
                print(f"{name} takes {kinds[kind]:.1%} of the time", flush=True)
            saved[name] = kinds[kind]
        return saved

    def _worst(self, module: nn.Module, out: list[str]) -> str:
        """The block that is missed least beside those that are out already, for what it saves."""
        before = self._harm(module, out) if out else 0.0
        harms = {
            name: (self._harm(module, [*out, name]) - before) / self._saved[name]
            for name in self.widths
            if name not in out
        }
        worst = min(harms, key=harms.__getitem__)
        if not math.isfinite(harms[worst]):
            raise PruneError(
                f"without {', '.join(out)} no other block can be left out: the answers are not finite then"
            )
        return worst

    def _harm(self, module: nn.Module, out: list[str]) -> float:
        with without(module, out):
            harm = divergence(self._answers_BC, _answers(module, self._rows))
        return harm if math.isfinite(harm) else math.inf


def find_blocks(module: nn.Module, rows: Tensor) -> tuple[tuple[str, ...], dict[str, str]]:
    """The blocks of `module` that can be left out, and those that cannot, each with the reason; it is not changed."""
    names = {id(part): name for name, part in module.named_modules()}
    shapes = _shapes(module, rows)
    found, left = [], {}
    for block in blocks(module):
        name = names[id(block)]
        reads, makes = shapes.get(id(block), (None, None))
        if reads is None or reads != makes:
            left[name] = "what it makes has not the shape of what it reads"
            continue
        try:
            with without(module, [name]):
                answers_BC = _answers(module, rows)
        except Exception as error:  # whatever a layer, a library or the user's own code raises
            left[name] = f"the model does not answer without it: {error}"
            continue
        if torch.isfinite(answers_BC).all():
            found.append(name)
        else:
            left[name] = "the answers are not finite without it"
    return tuple(found), left


def divergence(whole_BC: Tensor, other_BC: Tensor) -> float:
    """Kullback and Leibler's, of what `other` answers from what the whole model does; nats a row."""
    logs_BC = functional.log_softmax(other_BC, dim=1)
    wanted_BC = functional.log_softmax(whole_BC, dim=1)
    return float(functional.kl_div(logs_BC, wanted_BC, reduction="batchmean", log_target=True))


def _shapes(module: nn.Module, rows: Tensor) -> dict[int, tuple[object, object]]:
    """Of the tensor that each block reads first and of the one that it makes, by the block's id; else None."""
    shapes: dict[int, tuple[object, object]] = {}

    def note(block: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        first = given[0] if given else None
        shapes[id(block)] = tuple(one.shape if isinstance(one, Tensor) else None for one in (first, made))  # type: ignore[assignment]

    hooks = [block.register_forward_hook(note) for block in blocks(module)]
    try:
        _answers(module, rows)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _answers(module: nn.Module, rows: Tensor) -> Tensor:
    was_training = module.training
    try:
        with torch.no_grad():
            return torch.cat([module.eval()(some) for some in torch.split(rows, ROWS_AT_ONCE)])
    finally:
        module.train(was_training)


def _smaller(architecture: Architecture, out: list[str]) -> Architecture:
    sizes = {layer: size for layer, size in architecture.sizes.items() if not _is_of(layer, out)}
    return replace(architecture, sizes=sizes, dropped=tuple(sorted({*architecture.dropped, *out})))


def _is_of(name: str, out: list[str]) -> bool:
    return any(name == block or name.startswith(f"{block}.") for block in out)
