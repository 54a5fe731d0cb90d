"""TokenBucket: so many requests a second, and a burst above them."""

import time
from collections.abc import Callable


class TokenBucket:
    """`rate_per_s` tokens a second flow in, `burst` are held at most. Two numbers of state, whatever the traffic."""

    def __init__(self, rate_per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not (rate_per_s > 0 and burst >= 1):
            raise ValueError(
                f"rate_per_s is {rate_per_s} and burst {burst}: give a rate above 0 and a burst of 1 or more"
            )
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._clock = clock
        self._tokens = burst
        self._filled_at_s = clock()

    def take(self) -> float:
        """Take one token and return 0; where there is none, take nothing and return the seconds until there is."""
        now_s = self._clock()
        self._tokens = min(self.burst, self._tokens + (now_s - self._filled_at_s) * self.rate_per_s)
        self._filled_at_s = now_s
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate_per_s
