"""Progress: how far a training is, and the bar that shows it on a terminal."""

from dataclasses import dataclass
from typing import IO, Any

SHOWN_EVERY_S = 0.5


@dataclass(frozen=True)
class Progress:
    """`step` of `steps`, counted over all epochs; `loss` is the mean of the epoch under way, None where none is known
    to the process that tells; `samples_per_s` is of all workers.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    samples_per_s: float


class Bar:
    """Drawn on `stream` from the first `show` on, until it is closed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._bar: Any = None

    def show(self, progress: Progress) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=progress.steps, initial=progress.step, unit="step", leave=False, file=self._stream,
                dynamic_ncols=True, smoothing=0.05,
            )  # fmt: skip
        loss = "" if progress.loss is None else f"loss {progress.loss:.4f}, "
        self._bar.set_description(f"epoch {progress.epoch}/{progress.epochs}", refresh=False)
        self._bar.set_postfix_str(f"{loss}{progress.samples_per_s:,.0f} samples/s", refresh=False)
        # Backwards where a restart took the training back. Drawn at any rate: tqdm would leave out what comes soon.
        if not self._bar.update(progress.step - self._bar.n):
            self._bar.refresh()

    def clear(self) -> None:
        """Away until the next `show`, for a line to be printed in its place."""
        if self._bar is not None:
            self._bar.clear()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
