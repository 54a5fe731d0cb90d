"""Script: what the demo does to the endpoint, act by act, and what was seen of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from apps.demo.traffic import UNANSWERED, Window

# The page's latency is that of so many seconds: one half second holds too few requests for a p95.
LATENCY_WINDOW_S = 2.0


@dataclass(frozen=True)
class Act:
    """`load` is in teachers: 1 is a load whose hard rows keep one replica of the teacher just busy."""

    title: str
    says: str
    seconds: float
    load: float
    mode: Literal["cascade", "teacher"] = "cascade"
    kills: bool = False


ACTS = (
    Act("Calm", "The student answers what it is sure of, the teacher the rest.", 25, 0.7),
    Act("Three times the teacher", "The teacher works on; what it cannot take, the student answers.", 45, 3.0),
    Act("Without a student", "The same requests, all to the teacher, as with any other server.", 20, 3.0, "teacher"),
    Act("Calm again", "Back to normal.", 20, 0.7),
    Act("The teacher is killed", "kill -9. The student answers alone; Ray Serve starts another.", 40, 0.7, kills=True),
    Act("Calm at last", "The teacher is back.", 20, 0.7),
)


@dataclass(frozen=True)
class Sample:
    """Half a second as the page draws it; shares are of all requests that ended in it, None where none did."""

    at_s: float
    act: int
    rate: float
    by_route_per_s: dict[str, float]
    p95_ms: float | None
    in_time: float | None
    accuracy: float | None
    replicas: int
    starting: int


@dataclass
class Seen:
    """All requests of one act, whenever they ended, and what there was of the teacher meanwhile."""

    requests: int = 0
    right: int = 0
    routes: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    most_replicas: int = 0
    without_teacher_s: float = 0.0

    def add(self, window: Window) -> None:
        self.requests += sum(window.routes.values())
        self.right += window.right
        self.routes.update(window.routes)
        self.latencies_ms += window.latencies_ms

    def pass_time(self, seconds: float, replicas: int) -> None:
        self.seconds += seconds
        self.most_replicas = max(self.most_replicas, replicas)
        self.without_teacher_s += 0.0 if replicas else seconds

    def summary(self, objective_ms: float) -> dict[str, Any]:
        """Shares are of all requests, `accuracy` of those that were answered; p95 is None where it is never."""
        answered = len(self.latencies_ms)
        return {
            "requests": self.requests,
            "in_time": _share(sum(latency <= objective_ms for latency in self.latencies_ms), self.requests),
            "unanswered": sum(self.routes[route] for route in UNANSWERED),
            "failed": self.routes["failed"],
            "p95_ms": quantile_ms(self.latencies_ms, self.requests),
            "accuracy": _share(self.right, answered),
            "by_teacher_per_s": (self.routes["escalated"] + self.routes["pinned"]) / max(self.seconds, 1e-3),
            "routes": dict(self.routes),
            "most_replicas": self.most_replicas,
            "without_teacher_s": self.without_teacher_s,
        }


class Recorder:
    """Turns windows into samples, and remembers each act."""

    def __init__(self, acts: Sequence[Act], objective_ms: float) -> None:
        self._objective_ms = objective_ms
        self._recent: list[Window] = []
        self._last_s = 0.0
        self.seen = [Seen() for _ in acts]
        self.samples: list[Sample] = []

    def add(self, windows: Sequence[Window], act: int, rate: float, replicas: int, starting: int) -> Sample:
        """One report, in `act`; `replicas` of the teacher run and `starting` are on their way."""
        at_s = windows[0].at_s
        seconds = max(at_s - self._last_s, 1e-3)
        self._last_s = at_s
        for window in windows:
            self.seen[window.act].add(window)
        self.seen[act].pass_time(seconds, replicas)
        self._recent = [one for one in self._recent if one.at_s > at_s - LATENCY_WINDOW_S] + list(windows)
        ended = sum(sum(one.routes.values()) for one in self._recent)
        latencies_ms = [latency for one in self._recent for latency in one.latencies_ms]
        routes: Counter[str] = Counter()
        for window in windows:
            routes.update(window.routes)
        sample = Sample(
            at_s=at_s,
            act=act,
            rate=rate,
            by_route_per_s={route: count / seconds for route, count in routes.items()},
            p95_ms=quantile_ms(latencies_ms, ended),
            in_time=_share(sum(latency <= self._objective_ms for latency in latencies_ms), ended),
            accuracy=_share(sum(one.right for one in self._recent), len(latencies_ms)),
            replicas=replicas,
            starting=starting,
        )
        self.samples.append(sample)
        return sample

    def summaries(self) -> list[dict[str, Any]]:
        return [seen.summary(self._objective_ms) for seen in self.seen]


def quantile_ms(latencies_ms: Sequence[float], requests: int, share: float = 0.95) -> float | None:
    """The latency within which `share` of `requests` were answered; None where they never were."""
    rank = max(0, int(share * requests + 0.999_999) - 1)
    return sorted(latencies_ms)[rank] if rank < len(latencies_ms) else None


def verdict(acts: Sequence[Act], summaries: Sequence[dict[str, Any]], objective_ms: float) -> list[str]:
    """One sentence an act, for the terminal and the page."""
    sentences = []
    for act, seen in zip(acts, summaries, strict=True):
        if not seen["requests"]:
            continue
        p95 = "never" if seen["p95_ms"] is None else f"{seen['p95_ms']:.0f} ms"
        text = f"{act.title}: {seen['in_time']:.1%} of {seen['requests']:,} requests within {objective_ms:.0f} ms"
        text += f", p95 {p95}, {seen['unanswered']} unanswered"
        if seen["accuracy"] is not None:
            text += f", {seen['accuracy']:.1%} right"
        if act.kills:
            text += f"; no teacher for {seen['without_teacher_s']:.0f} s"
        sentences.append(text)
    return sentences


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
