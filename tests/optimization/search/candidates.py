"""Made-up candidates: what was measured of pipelines that nobody ran."""

import numpy as np

from optimization.measure.latency import BatchLatency, Latency
from optimization.quantize.choice import NoQuantization
from optimization.quantize.static import StaticInt8
from optimization.search.choice import Candidate
from optimization.search.making import Made
from optimization.search.pipeline import Pipeline

ROWS = 1000


def candidate(number: int, wrong: int, ms: float, size_bytes: int, p95_ms: float | None = None) -> Candidate:
    """It errs on the first `wrong` of ROWS rows and answers one row in `ms`, 32 in 16 times that."""
    correct_N = np.arange(ROWS) >= wrong
    rounds = tuple(ms * (1 + 0.001 * turn) for turn in range(12))
    one = BatchLatency(1, ms, p95_ms or 1.2 * ms, 1.3 * ms, ms, rounds, 60)
    many = BatchLatency(32, 16 * ms, 20 * ms, 21 * ms, 16 * ms, tuple(16 * each for each in rounds), 60)
    made = Made(("/nowhere",), f"digest-{number}", ROWS - wrong, ROWS, size_bytes, 1.0, ("exporting",), ())
    pipeline = Pipeline(quantize=NoQuantization() if number == 1 else StaticInt8(percentile=90 + number / 10))
    return Candidate(number, pipeline, made, Latency((one, many)), correct_N)


TEACHER = candidate(1, wrong=50, ms=4.0, size_bytes=4000)
