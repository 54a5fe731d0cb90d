"""Horizon: when the replicas of a model would have answered one more row, by what each of them said last.

A request that none of them could answer in time is refused where it is: asking would cost both sides as much as an
answer does, just when they have no time.
"""

from dataclasses import dataclass

# A replica that was not heard of for so long is gone, or there is no load.
FORGOTTEN_S = 10.0


class Horizon:
    """A word is believed for `hint_s`: others ask the same replicas, and may have been refused where we would not."""

    def __init__(self, hint_s: float) -> None:
        self._hint_s = hint_s
        self._words: dict[str, _Word] = {}

    def heard(self, replica: str, answer_at: float, now: float, step_s: float | None = None) -> None:
        """A row that is sent to `replica` now is answered at `answer_at`, and each further one `step_s` later."""
        word = self._words.setdefault(replica, _Word())
        word.answer_at, word.heard_at = answer_at, now
        if step_s is not None:
            word.step_s = step_s

    def sent(self, rows: int, now: float) -> None:
        """So many rows are on their way; where there are several replicas nobody knows to which."""
        if len(self._words) == 1:
            (word,) = self._words.values()
            word.answer_at = max(word.answer_at, now + word.step_s) + rows * word.step_s
            word.heard_at = now

    def answers_at(self, now: float) -> float:
        """The earliest moment; 0 where one of them was not heard of lately, for it may be free."""
        earliest = float("inf")
        for replica, word in list(self._words.items()):
            if now - word.heard_at > FORGOTTEN_S:
                del self._words[replica]
            elif now - word.heard_at >= self._hint_s:
                return 0.0
            else:
                earliest = min(earliest, word.answer_at)
        return earliest if self._words else 0.0


@dataclass(eq=False, slots=True)
class _Word:
    answer_at: float = 0.0
    heard_at: float = 0.0
    step_s: float = 0.0
