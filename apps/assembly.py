"""Assembly: one model's Service from its Releases, its students' sources and the handles of its deployments."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

from ray.serve.handle import DeploymentHandle

from apps.args import ModelArgs
from apps.backends.backend import ONE_BY_ONE, Backend, GuardedBackend, HandleBackend, LocalBackend
from apps.backends.breaker import Breaker
from apps.backends.hedge import Hedge, HedgedBackend, HedgeLimits
from apps.backends.waker import Waker
from apps.batching.batcher import Batcher
from apps.load import ModelSource, open_batcher, sample_row, warm_up
from apps.observe.account import Books
from apps.observe.exporter import Exporter
from apps.observe.meter import ServeMeter
from apps.observe.metered import CountedAs, RunnerInfo, RunsOn, meter_batcher
from apps.observe.request_log import RequestIds, RequestLog
from apps.observe.tracing import Tracing
from apps.plan import Plan
from apps.router import MODES, Arm, Patience, Router
from apps.service import Service
from training.artifact import Artifact
from training.encoding import Array, encoding_to_json

# A call that wakes a teacher waits for its replica to start; Serve takes some seconds to notice that it is wanted.
WAKING_CALL_S = 60.0

# A larger student would make every ingress replica slow to start and heavy: it gets a deployment of its own.
MAX_STUDENT_BYTES = 200_000_000


@dataclass(frozen=True)
class Part:
    """One model as an ingress replica is sent it: a student's source for each plan."""

    args: ModelArgs
    plans: tuple[Plan, ...]
    students: tuple[ModelSource, ...]

    @property
    def is_student_apart(self) -> bool:
        return self.args.student_placement == "deployment"


@dataclass(frozen=True)
class Assembled:
    """`batchers` run the students of this process, `wakers` call the teachers."""

    service: Service
    batchers: tuple[Batcher, ...]
    wakers: tuple[Waker, ...]


@dataclass(frozen=True)
class Office:
    """What all models of a replica write into."""

    exporter: Exporter
    log: RequestLog
    tracing: Tracing
    ids: RequestIds = field(default_factory=RequestIds)

    def books(self, model: str) -> Books:
        return Books(model, ServeMeter(model, self.exporter), self.log, self.tracing, self.ids)


def assemble_model(part: Part, handles: Iterator[DeploymentHandle[Any]], office: Office) -> Assembled:
    """Takes from `handles` a teacher's for each plan, then a student's for each where students have deployments.

    Raises ValueError where its Releases cannot be served together, and what loading a student raises.
    """
    args = part.args
    teachers = [next(handles) for _ in part.plans]
    artifacts = [source.fetch() for source in part.students]
    _refuse_differing_encodings(part.plans, artifacts)
    books = office.books(args.model)
    classes = len(artifacts[0].manifest.encoding.labels)
    students: list[Backend]
    opened: list[tuple[Batcher, RunsOn]] = []
    if part.is_student_apart:
        students = [_remote(next(handles), classes, args, books) for _ in part.plans]
    else:
        opened = [_open_student(artifact, source) for artifact, source in zip(artifacts, part.students, strict=True)]
        students = [LocalBackend(batcher) for batcher, _ in opened]
        for (batcher, runs_on), plan in zip(opened, part.plans, strict=True):
            meter_batcher(batcher, books.meter, str(plan.number), "student")
            office.exporter.watch(RunnerInfo(CountedAs(args.model, str(plan.number), "student"), runs_on))
    patience = Patience(args.deadline_ms / 1e3, args.reserve_ms / 1e3, args.insist_timeout_ms / 1e3)
    guarded = [_guard(teacher, classes, plan, args, books) for plan, teacher in zip(part.plans, teachers, strict=True)]
    arms = [
        Arm(plan.number, plan.weight, plan.release.temperature, plan.release.threshold, student, teacher)
        for plan, student, teacher in zip(part.plans, students, guarded, strict=True)
    ]
    encoder = artifacts[0].encoder()
    warm_up(encoder)
    service = Service(
        model=args.model,
        encoder=encoder,
        router=Router(arms, patience, office.tracing),
        about=describe(args, part.plans, artifacts[0], [runs_on for _, runs_on in opened]),
        max_rows=args.max_rows,
        books=books,
    )
    row = sample_row(artifacts[0].manifest.encoding)
    batchers = tuple(batcher for batcher, _ in opened)
    return Assembled(service, batchers, tuple(_waker(teacher, row) for teacher in guarded))


def _guard(handle: DeploymentHandle[Any], classes: int, plan: Plan, args: ModelArgs, books: Books) -> GuardedBackend:
    teacher: Backend = _remote(handle, classes, args, books)
    if args.hedge_share > 0:
        teacher = HedgedBackend(teacher, Hedge(HedgeLimits(share=args.hedge_share)))
    # Less than half of what the objective leaves a teacher proves nothing against it.
    guarded = GuardedBackend(teacher, Breaker(), fair_s=(args.deadline_ms - args.reserve_ms) / 2e3)
    books.meter.watch_breaker(str(plan.number), lambda: guarded.breaker.state)
    return guarded


def _remote(handle: DeploymentHandle[Any], classes: int, args: ModelArgs, books: Books) -> HandleBackend:
    # Serve's own batching has to see each request by itself.
    limits = ONE_BY_ONE if args.batching == "ray" else None
    return HandleBackend(handle, classes, limits, books.tracing)


def _waker(teacher: GuardedBackend, row: Array) -> Waker:
    """Calls the teacher when asked to, and whenever its breaker has opened, until it answers."""
    waker = Waker(lambda: teacher.insist(row[None], WAKING_CALL_S))
    teacher.breaker.on_change = lambda state: waker.wake() if state == "open" else None
    return waker


def describe(
    args: ModelArgs, plans: Sequence[Plan], artifact: Artifact, students_run_on: Sequence[RunsOn] = ()
) -> dict[str, Any]:
    """The answer to GET /v1/models/{m}: what a page needs to know.

    `students_run_on` is for each plan, and empty where students have replicas of their own: like teachers, they tell it
    to Prometheus alone.
    """
    encoding = artifact.manifest.encoding
    total = sum(plan.weight for plan in plans)
    return {
        "name": args.model,
        **encoding_to_json(encoding),
        "labels": list(encoding.labels),
        "modes": list(MODES),
        "deadline_ms": args.deadline_ms,
        "releases": [
            {
                "release": str(plan.number),
                "share": plan.weight / total,
                "threshold": plan.release.threshold,
                "temperature": plan.release.temperature,
                "teacher": plan.teacher.reference,
                "student": plan.student.reference,
                "guarantee": asdict(plan.release.guarantee),
                "student_runs_on": asdict(runs_on) if runs_on is not None else None,
            }
            for plan, runs_on in zip_longest(plans, students_run_on)
        ],
    }


def _open_student(artifact: Artifact, source: ModelSource) -> tuple[Batcher, RunsOn]:
    if artifact.size_bytes > MAX_STUDENT_BYTES:
        raise ValueError(
            f"the student has {artifact.size_bytes} bytes; above {MAX_STUDENT_BYTES} set student_placement: deployment"
        )
    return open_batcher(artifact, source)


def _refuse_differing_encodings(plans: Sequence[Plan], artifacts: Sequence[Artifact]) -> None:
    """A model reads payloads one way: Releases of a split that read them differently need two models."""
    first = artifacts[0]
    for plan, artifact in zip(plans[1:], artifacts[1:], strict=True):
        if artifact.misreads(first.manifest.encoding, first.encoding_files()):
            raise ValueError(
                f"Releases {plans[0].number} and {plan.number} read their payloads differently "
                "(labels, image size or tokenizer): serve them as two models"
            )
