"""Statistics: the answer to `GET /v2/models/{m}/stats` in the shape of Triton's statistics extension.

They are of one replica since it started, whichever of them is asked; the sum over replicas is in Prometheus. A version
is a Release. `queue` and the batches are of models that run inside this replica; what a teacher elsewhere took is part
of `compute_infer`, which is what remains of a request's time after reading, waiting and writing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Phases:
    """Sums over the requests of one Release: counts, and seconds."""

    success: int = 0
    success_s: float = 0.0
    fail: int = 0
    fail_s: float = 0.0
    parse_s: float = 0.0
    encode_s: float = 0.0
    rows: int = 0
    last_unix_s: float = 0.0
    queued: int = 0
    queue_s: float = 0.0
    # Rows of a batch -> how many there were, and the model's seconds for them.
    batches: dict[int, tuple[int, float]] = field(default_factory=dict)

    def add(self, status: int, latency_s: float, parse_s: float, encode_s: float, unix_s: float) -> None:
        """What a client did wrong (4xx) is no failure of the model and is counted nowhere here."""
        if status < 400:
            self.success += 1
            self.success_s += latency_s
            self.parse_s += parse_s
            self.encode_s += encode_s
            self.last_unix_s = unix_s
        elif status >= 500:
            self.fail += 1
            self.fail_s += latency_s

    def add_batch(self, rows: int, jobs: int, queue_s: float, model_s: float) -> None:
        """`queue_s` is the sum of what its jobs waited."""
        self.queued += jobs
        self.queue_s += queue_s
        count, seconds = self.batches.get(rows, (0, 0.0))
        self.batches[rows] = (count + 1, seconds + model_s)


def statistics(
    model: str, phases: Mapping[str, Phases], versions: Sequence[str], version: str | None = None
) -> dict[str, Any]:
    """Of every one of `versions`, or of `version` alone; what failed before a Release was found is the first one's."""
    nobody = phases.get("")
    entries = []
    for i, name in enumerate(versions):
        unknown = nobody if i == 0 else None
        if version is None or name == version:
            entries.append(_entry(model, name, phases.get(name) or Phases(), unknown))
    return {"model_stats": entries}


def _entry(model: str, version: str, phases: Phases, unknown: Phases | None) -> dict[str, Any]:
    fail, fail_s = phases.fail, phases.fail_s
    if unknown is not None:
        fail, fail_s = fail + unknown.fail, fail_s + unknown.fail_s
    infer_s = max(0.0, phases.success_s - phases.parse_s - phases.encode_s - phases.queue_s)
    batches = sorted(phases.batches.copy().items())
    return {
        "name": model,
        "version": version,
        "last_inference": int(phases.last_unix_s * 1e3),
        "inference_count": phases.rows,
        "execution_count": sum(count for _, (count, _) in batches),
        "inference_stats": {
            "success": _duration(phases.success, phases.success_s),
            "fail": _duration(fail, fail_s),
            "queue": _duration(phases.queued, phases.queue_s),
            "compute_input": _duration(phases.success, phases.parse_s),
            "compute_infer": _duration(phases.success, infer_s),
            "compute_output": _duration(phases.success, phases.encode_s),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(0, 0.0),
                "compute_infer": _duration(count, seconds),
                "compute_output": _duration(0, 0.0),
            }
            for rows, (count, seconds) in batches
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}
