"""Pace: how long a call of so many rows takes, learned at warm-up and corrected by every later call."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable

# What a call costs round the model: the way to its thread and back, 0.5 to 1.2 ms on a busy event loop.
HAND_OVER_S = 0.001
# Of the best throughput: the rest is not worth the longer wait.
NEARLY = 0.95


class Pace:
    """Keeps the median of the last `window` calls for each power of two of rows and for each of `sizes`.

    What lies between is read off the line between its neighbours. A call that was held up (a busy machine) changes
    nothing, since it is not the median; a lasting change is followed once it fills more than half of the window.
    """

    def __init__(self, sizes: Iterable[int] = (), window: int = 5) -> None:
        self._sizes = frozenset(sizes)
        self._window = window
        self._knots: list[int] = []
        self._seconds: list[float] = []
        self._calls: dict[int, deque[float]] = {}
        self._worth: dict[int, int] = {}

    def observe(self, rows: int, seconds: float) -> None:
        if rows in self._sizes or rows & (rows - 1) == 0:
            self._note(rows, seconds)
            return
        above = bisect_left(self._knots, rows)
        if above in (0, len(self._knots)):
            size = 1 << (rows - 1).bit_length()
            self._note(size, seconds * size / rows)
            return
        # What slows one size down (a busy machine) slows its neighbours down alike.
        factor = seconds / max(self.seconds(rows), 1e-9)
        for size, known_s in [(self._knots[index], self._seconds[index]) for index in (above - 1, above)]:
            self._note(size, known_s * factor)

    def seconds(self, rows: int) -> float:
        """The expected duration; 0 while nothing is known.

        Below the smallest size seen it is that size's, above the largest it grows with the rows.
        """
        knots = self._knots
        if rows <= 0 or not knots:
            return 0.0
        above = bisect_left(knots, rows)
        if above == len(knots):
            return self._seconds[-1] * rows / knots[-1]
        if above == 0 or knots[above] == rows:
            return self._seconds[above]
        low, high = knots[above - 1], knots[above]
        low_s, high_s = self._seconds[above - 1], self._seconds[above]
        return low_s + (high_s - low_s) * (rows - low) / (high - low)

    def at_best(self, rows: int) -> float:
        """The fastest of the recent calls of so many rows, or of the next larger size; 0 while nothing is known."""
        if not self._knots:
            return 0.0
        knot = self._knots[min(bisect_left(self._knots, rows), len(self._knots) - 1)]
        return min(self._calls[knot]) * max(1.0, rows / knot)

    def rows_within(self, seconds: float, most: int) -> int:
        """The most rows, up to `most`, that a call is expected to manage within `seconds`; 0 where not even one."""
        if self.seconds(most) <= seconds:
            return most
        fits, too_many = 0, most
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.seconds(middle) <= seconds:
                fits = middle
            else:
                too_many = middle
        return fits

    def rows_worth_it(self, most: int) -> int:
        """The fewest rows whose calls do nearly as much a second as any up to `most`.

        Larger batches would only make everybody wait longer. `most` where that many were never seen.
        """
        if not self._knots or self._knots[-1] < most:
            return most
        if self._worth.get(most) is None:
            rates = [(size, size / (self.seconds(size) + HAND_OVER_S)) for size in self._knots if size < most]
            rates.append((most, most / (self.seconds(most) + HAND_OVER_S)))
            enough = NEARLY * max(rate for _, rate in rates)
            self._worth[most] = next(size for size, rate in rates if rate >= enough)
        return self._worth[most]

    def _note(self, size: int, seconds: float) -> None:
        calls = self._calls.get(size)
        if calls is None:
            calls = self._calls[size] = deque(maxlen=self._window)
            index = bisect_left(self._knots, size)
            self._knots.insert(index, size)
            self._seconds.insert(index, seconds)
        calls.append(seconds)
        self._worth.clear()
        self._seconds[bisect_left(self._knots, size)] = sorted(calls)[(len(calls) - 1) // 2]
