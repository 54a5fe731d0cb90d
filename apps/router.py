"""Router: which Release and which of its models answer each row of a request, and why.

Shape suffixes: B rows, C classes.
"""

import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from apps.backends.backend import Backend, GuardedBackend
from apps.batching.batcher import Logits
from apps.observe.tracing import NoTracing, Tracing
from apps.refusal import Refused, RefusedError
from training.encoding import Array, softmax

# Up to so many numbers a loop in Python is faster than NumPy.
MOST_PLAIN_LOGITS = 64

Mode = Literal["cascade", "teacher", "student"]
MODES: tuple[Mode, ...] = ("cascade", "teacher", "student")
Variant = Literal["student", "teacher"]


@dataclass(frozen=True)
class Route:
    """Who answered a row and why: confident, escalated, pinned (the client asked for it) or fallback:<refusal>."""

    variant: Variant
    reason: str


CONFIDENT = Route("student", "confident")
ESCALATED = Route("teacher", "escalated")


@dataclass(frozen=True)
class Ask:
    """What a request wants for its rows [B, ...].

    After `deadline_s` (None: the objective's) the teacher is waited for no longer. `release` pins one by number;
    else `key` chooses, always the same for the same key.
    """

    rows: Array
    mode: Mode = "cascade"
    allow_fallback: bool = True
    deadline_s: float | None = None
    key: str | None = None
    release: int | None = None


@dataclass(frozen=True)
class Arm:
    """One Release in service: `threshold` None lets the teacher answer everything."""

    number: int
    weight: float
    temperature: float
    threshold: float | None
    student: Backend
    teacher: GuardedBackend


@dataclass(frozen=True)
class Answer:
    """Logits [B, C] and a Route for each row.

    `temperature` is the student's: it makes its logits a confidence, the teacher's logits are taken as they are.
    `confidence` [B] is the student's, where it was asked.
    """

    logits: Logits
    routes: Sequence[Route]
    release: int
    temperature: float
    confidence: NDArray[np.float64] | None = None

    @property
    def variant(self) -> str:
        """Who answered, or "mixed" where rows differ."""
        return _common([route.variant for route in self.routes])

    @property
    def reason(self) -> str:
        return _common([route.reason for route in self.routes])

    def probabilities(self) -> NDArray[np.float32]:
        """[B, C]."""
        temperatures_B1 = np.array([[self.temperature if r.variant == "student" else 1.0] for r in self.routes])
        return softmax(self.logits / temperatures_B1).astype(np.float32)


@dataclass(frozen=True)
class Patience:
    """`deadline_s` is the objective; `reserve_s` of it is kept for the student's answer and for sending it.

    `insist_s` bounds a request that takes no fallback and gave no deadline, and the wait for the student, after whom
    nobody is left to answer.
    """

    deadline_s: float
    reserve_s: float
    insist_s: float


class UnknownReleaseError(LookupError):
    """A request for a Release that is not in service."""


def choose(arms: Sequence[Arm], draw: float) -> Arm:
    """The arm whose share of the weights holds `draw`, a number in [0, 1)."""
    edge = draw * sum(arm.weight for arm in arms)
    for arm in arms[:-1]:
        if edge < arm.weight:
            return arm
        edge -= arm.weight
    return arms[-1]


def sticky_draw(key: str) -> float:
    """A number in [0, 1), uniform over keys and the same on every replica for the same key."""
    return int.from_bytes(hashlib.sha256(key.encode(errors="replace")).digest()[:6], "big") / 2**48


def confidence(logits_BC: Logits, temperature: float) -> NDArray[np.float64]:
    """The largest of each row's probabilities [B].

    Most requests have one row of few logits: for those Python's own arithmetic is ten times faster than NumPy's calls.
    """
    if logits_BC.size > MOST_PLAIN_LOGITS:
        largest_B: NDArray[np.float64] = softmax(logits_BC, temperature).max(axis=-1)
        return largest_B
    tops = []
    for logits_C in logits_BC.tolist():
        top = max(logits_C)
        tops.append(1.0 / sum([math.exp((logit - top) / temperature) for logit in logits_C]))
    return np.array(tops)


def escalated_rows(confidence_B: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Which rows the student is not sure enough of; a confidence that is no number counts as unsure."""
    return ~(confidence_B >= threshold)


class Router:
    """An object inside the ingress replica. `draw` and `clock` are there for tests.

    A traced request shows who was asked: the spans `student` and `teacher`.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        patience: Patience,
        tracing: Tracing | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.arms = tuple(arms)
        self._patience = patience
        self._tracing = tracing or NoTracing()
        self._draw = draw
        self._clock = clock

    def arm(self, ask: Ask) -> Arm:
        """The Release for `ask`; raises UnknownReleaseError where it pins one that is not served."""
        if ask.release is not None:
            for arm in self.arms:
                if arm.number == ask.release:
                    return arm
            served = ", ".join(str(arm.number) for arm in self.arms)
            raise UnknownReleaseError(f"release {ask.release} is not served; served are {served}")
        return choose(self.arms, self._draw() if ask.key is None else sticky_draw(ask.key))

    async def answer(self, ask: Ask) -> Answer:
        """Logits and a Route for each row. Raises RefusedError where nobody may or can answer."""
        arm = self.arm(ask)
        started = self._clock()
        if ask.mode == "student":
            logits_BC = await self._ask_student(arm, ask)
            return _answer(arm, logits_BC, Route("student", "pinned"))
        if ask.mode == "teacher":
            with self._tracing.step("teacher", rows=len(ask.rows)):
                logits_BC = await arm.teacher.insist(ask.rows, ask.deadline_s or self._patience.insist_s)
            return _answer(arm, logits_BC, Route("teacher", "pinned"))
        if arm.threshold is None:
            return await self._teacher_first(arm, ask, started)
        return await self._cascade(arm, arm.threshold, ask, started)

    async def _cascade(self, arm: Arm, threshold: float, ask: Ask, started: float) -> Answer:
        try:
            logits_BC = await self._ask_student(arm, ask)
        except RefusedError as error:
            # A student that is only full must not pass its load on; one that is gone has the teacher stand in.
            if error.refused.reason == "overload" or not ask.allow_fallback:
                raise
            logits_BC = await self._ask_teacher(arm, ask, ask.rows, started)
            return _answer(arm, logits_BC, Route("teacher", f"fallback:{error.refused.reason}"))
        confidence_B = confidence(logits_BC, arm.temperature)
        escalated_B = escalated_rows(confidence_B, threshold)
        if not escalated_B.any():
            return _answer(arm, logits_BC, CONFIDENT, confidence_B)
        route = ESCALATED
        try:
            teacher_logits = await self._ask_teacher(arm, ask, ask.rows[escalated_B], started)
            logits_BC = np.array(logits_BC)
            logits_BC[escalated_B] = teacher_logits
        except RefusedError as error:
            if not ask.allow_fallback:
                raise
            route = Route("student", f"fallback:{error.refused.reason}")
        routes = [route if escalated else CONFIDENT for escalated in escalated_B]
        return Answer(logits_BC, routes, arm.number, arm.temperature, confidence_B)

    async def _teacher_first(self, arm: Arm, ask: Ask, started: float) -> Answer:
        try:
            return _answer(arm, await self._ask_teacher(arm, ask, ask.rows, started), ESCALATED)
        except RefusedError as error:
            if not ask.allow_fallback:
                raise
            logits_BC = await self._ask_student(arm, ask)
            return _answer(arm, logits_BC, Route("student", f"fallback:{error.refused.reason}"))

    async def _ask_student(self, arm: Arm, ask: Ask) -> Logits:
        with self._tracing.step("student", rows=len(ask.rows)):
            return await arm.student.infer(ask.rows, self._student_wait_s(ask))

    def _student_wait_s(self, ask: Ask) -> float:
        if not ask.allow_fallback:
            return ask.deadline_s or self._patience.insist_s
        # The deadline does not bind the last resort: a late answer beats none. A deployment that lost all its replicas
        # never answers, though, and would keep its requests for ever.
        return max(self._patience.insist_s, ask.deadline_s or 0.0)

    async def _ask_teacher(self, arm: Arm, ask: Ask, rows_B: Array, started: float) -> Logits:
        spent_s = self._clock() - started
        if not ask.allow_fallback:
            left_s = (ask.deadline_s or self._patience.insist_s) - spent_s
            infer = arm.teacher.insist
        else:
            left_s = (ask.deadline_s or self._patience.deadline_s) - self._patience.reserve_s - spent_s
            infer = arm.teacher.infer
        if left_s <= 0:
            raise RefusedError(Refused("timeout", "the deadline leaves no time to ask the teacher"))
        with self._tracing.step("teacher", rows=len(rows_B)):
            return await infer(rows_B, left_s)


def _answer(arm: Arm, logits_BC: Logits, route: Route, confidence_B: NDArray[np.float64] | None = None) -> Answer:
    return Answer(logits_BC, (route,) * len(logits_BC), arm.number, arm.temperature, confidence_B)


def _common(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 or len(set(values)) == 1 else "mixed"
