"""Latency: how much faster a pruned model really is, and the least pruning that makes it as fast as is asked.

Multiply-accumulates are no latency: a convolution of 8 channels may take as long as one of 16. So the amount is found
by bisection over what ONNX Runtime takes, each time beside the model before, in interleaved rounds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from optimization.export import export_onnx
from optimization.measure.latency import Speedup, measure_latency, speedup
from optimization.prune.counts import Counts
from optimization.prune.group import PruneError
from optimization.runners.onnx_runtime import onnx_session
from training.encoding import Array, Encoding, output_spec

ROUNDS, CALLS = 15, 10
BISECTIONS = 7
# Beyond it the narrowest widths of all layers are reached long since.
LARGEST_AMOUNT = 0.98


@dataclass(frozen=True)
class Trial:
    """What one amount made: the groups' widths, what the model counts then, how much faster it was measured to be."""

    amount: float
    widths: Mapping[str, int]
    counts: Counts
    speedup: Speedup

    @property
    def said(self) -> str:
        counts, gain = self.counts, self.speedup
        return (
            f"{counts.parameters:,} parameters, {counts.macs:,} MACs, {gain.ratio:.2f}x as fast "
            f"({gain.lower:.2f} to {gain.upper:.2f})"
        )


class Stopwatch:
    """Measures modules in ONNX Runtime against `whole`, on one thread, at `batch_size` of `inputs`."""

    def __init__(self, whole: nn.Module, encoding: Encoding, inputs: Array, batch_size: int = 1) -> None:
        self._input, self._output = encoding.input_spec, output_spec(encoding)
        self._inputs, self._batch_size = inputs, batch_size
        self._whole = self._runner(whole)

    def speedup(self, module: nn.Module) -> Speedup:
        """How many times faster than `whole`; raises ExportError where it cannot be exported."""
        runners = {"whole": self._whole, "pruned": self._runner(module)}
        found = measure_latency(runners, self._batch, (self._batch_size,), rounds=ROUNDS, calls=CALLS)
        return speedup(found["whole"], found["pruned"], self._batch_size)

    def _batch(self, size: int) -> Array:
        batch: Array = self._inputs[np.arange(size) % len(self._inputs)]
        return batch

    def _runner(self, module: nn.Module) -> Callable[[Array], Array]:
        session = onnx_session(export_onnx(module, self._batch(4), self._input, self._output))

        def run(batch: Array) -> Array:
            logits: Array = session.run([self._output.name], {self._input.name: batch})[0]
            return logits

        return run


def reach_speedup(target: float, attempt: Callable[[float], Trial]) -> tuple[Trial, tuple[Trial, ...]]:
    """The trial of the least amount that was measured to be `target` times as fast, and all that were made.

    It counts as so fast where the lower end of its interval is: of many trials the luckiest would pass by its median.
    `attempt` makes the trial of an amount. Raises PruneError where not even the narrowest model is fast enough.
    """
    low, high = 0.0, LARGEST_AMOUNT
    best = attempt(high)
    trials = [best]
    if best.speedup.lower < target:
        raise PruneError(
            f"the narrowest model that these settings allow is {best.speedup.ratio:.2f}x as fast (at least "
            f"{best.speedup.lower:.2f}x), not {target:.2f}x: lower speedup or round_to"
        )
    for _ in range(BISECTIONS):
        amount = (low + high) / 2
        trials.append(attempt(amount))
        if trials[-1].speedup.lower >= target:
            best, high = trials[-1], amount
        else:
            low = amount
    return best, tuple(trials)
