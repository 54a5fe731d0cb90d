"""Pace: how long a call of so many rows takes, learned at warm-up and corrected by every later call."""


class Pace:
    """Keeps one moving average for each power of two of rows; `weight` is that of the newest call."""

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self._seconds: dict[int, float] = {}

    def observe(self, rows: int, seconds: float) -> None:
        bucket = _bucket(rows)
        known = self._seconds.get(bucket)
        if known is None:
            self._seconds[bucket] = seconds
            return
        # One call that was held up (a busy machine) must not make the whole server refuse work.
        self._seconds[bucket] = known + self._weight * (min(seconds, 4 * known) - known)

    def seconds(self, rows: int) -> float:
        """The expected duration; 0 while nothing is known. Sizes never seen are read off the nearest seen one."""
        if rows <= 0 or not self._seconds:
            return 0.0
        bucket = _bucket(rows)
        nearest = min(self._seconds, key=lambda known: abs(known - bucket))
        # A smaller call is at worst as slow as a larger one; a larger one at worst grows with its rows.
        return self._seconds[nearest] * 2.0 ** max(0, bucket - nearest)


def _bucket(rows: int) -> int:
    return (rows - 1).bit_length()
