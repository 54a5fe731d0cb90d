"""What is known from here of a model elsewhere: how long the way to it is, and when it would answer one more row.

A request that none of them could answer in time is refused where it is: asking would cost both sides as much as an
answer does, just when they have no time.
"""

from collections import deque
from dataclasses import dataclass

# A replica that was not heard of for so long is gone, or there is no load.
FORGOTTEN_S = 10.0
# So many times `hint_s` a word is believed at most.
MOST_HINTS = 4
# More calls than are on their way at any moment.
MOST_SENT = 16


class Horizon:
    """A word is believed until the replica can begin the next row by it, and for `hint_s` at least.

    But not for long: others ask the same replicas, and what they sent may have been withdrawn.
    """

    def __init__(self, hint_s: float) -> None:
        self._hint_s = hint_s
        self._words: dict[str, _Word] = {}
        self._sent: deque[tuple[float, int]] = deque(maxlen=MOST_SENT)

    def heard(
        self, replica: str, answer_at: float, now: float, step_s: float | None = None, knew_until: float | None = None
    ) -> None:
        """A row that is sent to `replica` now is answered at `answer_at`, and each further one `step_s` later.

        What was sent after `knew_until` (None: now) had not arrived there, and comes first.
        """
        word = self._words.setdefault(replica, _Word())
        if step_s is not None:
            word.step_s = step_s
        word.answer_at = answer_at
        if knew_until is not None and len(self._words) == 1:
            word.answer_at += word.step_s * sum(rows for sent_at, rows in self._sent if sent_at > knew_until)
        self._believe(word, now)

    def sent(self, rows: int, now: float) -> None:
        """So many rows are on their way; where there are several replicas nobody knows to which."""
        if len(self._words) == 1:
            (word,) = self._words.values()
            self._sent.append((now, rows))
            word.answer_at = max(word.answer_at, now + word.step_s) + rows * word.step_s
            self._believe(word, now)

    def _believe(self, word: "_Word", now: float) -> None:
        word.heard_at = now
        busy_s = word.answer_at - word.step_s - now
        word.until = now + max(self._hint_s, min(busy_s, MOST_HINTS * self._hint_s))

    def answers_at(self, now: float) -> float:
        """The earliest moment; 0 where one of them was not heard of lately, for it may be free."""
        earliest = float("inf")
        for replica, word in list(self._words.items()):
            if now - word.heard_at > FORGOTTEN_S:
                del self._words[replica]
            elif now >= word.until:
                return 0.0
            else:
                earliest = min(earliest, word.answer_at)
        return earliest if self._words else 0.0


@dataclass(eq=False, slots=True)
class _Word:
    answer_at: float = 0.0
    heard_at: float = 0.0
    until: float = 0.0
    step_s: float = 0.0


class Way:
    """How long a call takes to a model and back, without the model's own time: a mean and a mean deviation."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        self._deviation_s = 0.0
        self._known = False

    @property
    def margin_s(self) -> float:
        """What hardly a call exceeds."""
        return self.mean_s + 2 * self._deviation_s

    def took(self, seconds: float) -> None:
        seconds = max(0.0, seconds)
        if not self._known:
            self._known, self.mean_s, self._deviation_s = True, seconds, seconds / 4
            return
        off_s = seconds - self.mean_s
        # The first call finds the replicas and takes long: what is shorter is believed sooner.
        self.mean_s += off_s / (8 if off_s > 0 else 2)
        further_s = min(abs(off_s), 4 * self.mean_s) - self._deviation_s
        self._deviation_s += further_s / (8 if further_s > 0 else 4)
