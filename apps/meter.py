"""Meter: what is counted of each answered request, through Ray's exporter, which sees every replica."""

from typing import Any, Protocol

LATENCY_BUCKETS_MS: list[float] = [1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000]


class Meter(Protocol):
    def record(self, release: str, variant: str, reason: str, status: int, latency_ms: float) -> None:
        """One request; `variant`, `reason` and `release` are empty where nobody answered."""
        ...


class ServeMeter:
    """`tandem_requests` and `tandem_latency_ms`, by model, release, variant, reason and status."""

    def __init__(self, model: str) -> None:
        from ray.serve import metrics

        # Ray's wrapper is annotated with a tuple of one key; it takes any number.
        tags: Any = ("model", "release", "variant", "reason", "status")
        self._model = model
        self._requests = metrics.Counter("tandem_requests", "Requests by who answered them and why.", tag_keys=tags)
        self._latency = metrics.Histogram(
            "tandem_latency_ms",
            "Time from a request's last byte to its answer, inside the ingress.",
            boundaries=LATENCY_BUCKETS_MS,
            tag_keys=tags,
        )

    def record(self, release: str, variant: str, reason: str, status: int, latency_ms: float) -> None:
        tags = {
            "model": self._model,
            "release": release,
            "variant": variant,
            "reason": reason,
            "status": str(status),
        }
        self._requests.inc(tags=tags)
        self._latency.observe(latency_ms, tags=tags)


class NoMeter:
    """Counts nothing."""

    def record(self, release: str, variant: str, reason: str, status: int, latency_ms: float) -> None:
        return
