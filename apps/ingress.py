"""Ingress: the Serve deployment that answers HTTP, with the Router and, if small, the student inside it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from apps.args import AppArgs
from apps.backend import Backend, GuardedBackend, HandleBackend, LocalBackend
from apps.batcher import Batcher
from apps.breaker import Breaker
from apps.load import ModelSource, open_batcher, sample_row, warm_up
from apps.meter import ServeMeter
from apps.model import STUCK_S
from apps.plan import Plan
from apps.refusal import RefusedError
from apps.router import MODES, Arm, Patience, Router
from apps.service import Service
from apps.web import build_app
from training.artifact import Artifact
from training.encoding import Array, encoding_to_json

logger = logging.getLogger("ray.serve")

# A larger student would make every ingress replica slow to start and heavy: it gets a deployment of its own.
MAX_STUDENT_BYTES = 200_000_000
# A first call through a handle finds the replicas; no request should pay for that.
FIRST_CALL_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class ArmSource:
    """One Release: its student's source, and handles of the deployments; `student_handle` None keeps it here."""

    plan: Plan
    student: ModelSource
    teacher_handle: DeploymentHandle[Any]
    student_handle: DeploymentHandle[Any] | None


@serve.ingress()
class Ingress:
    def __init__(
        self, args: AppArgs, plans: Sequence[Plan], students: Sequence[ModelSource], *handles: DeploymentHandle[Any]
    ) -> None:
        """`handles` are the teachers' in the order of `plans`, then the students' where they have deployments."""
        self._batchers: list[Batcher] = []
        teachers, apart = handles[: len(plans)], handles[len(plans) :]
        sources = [
            ArmSource(plan, student, teachers[i], apart[i] if apart else None)
            for i, (plan, student) in enumerate(zip(plans, students, strict=True))
        ]
        artifacts = [source.student.fetch() for source in sources]
        _refuse_differing_encodings(plans, artifacts)
        patience = Patience(args.deadline_ms / 1e3, args.reserve_ms / 1e3, args.insist_timeout_ms / 1e3)
        arms = [self._arm(source, artifact, patience) for source, artifact in zip(sources, artifacts, strict=True)]
        self._service = _service(args, plans, artifacts[0], Router(arms, patience))
        self._sample_row = sample_row(artifacts[0].manifest.encoding)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        arms = self._service.router.arms
        self._first_calls = [asyncio.create_task(_first_call(arm, self._sample_row)) for arm in arms]
        return build_app(self._service)

    def check_health(self) -> None:
        longest_s = max((batcher.busy_s for batcher in self._batchers), default=0.0)
        if longest_s > STUCK_S:
            raise RuntimeError(f"a call of the student has been running for {longest_s:.0f} s")

    def _arm(self, source: ArmSource, artifact: Artifact, patience: Patience) -> Arm:
        classes = len(artifact.manifest.encoding.labels)
        student: Backend
        if source.student_handle is not None:
            student = HandleBackend(source.student_handle, classes)
        else:
            if artifact.size_bytes > MAX_STUDENT_BYTES:
                raise ValueError(
                    f"the student has {artifact.size_bytes} bytes; above {MAX_STUDENT_BYTES} set "
                    "student_placement: deployment"
                )
            batcher = open_batcher(artifact, source.student)
            self._batchers.append(batcher)
            student = LocalBackend(batcher)
        fair_s = (patience.deadline_s - patience.reserve_s) / 2
        teacher = GuardedBackend(HandleBackend(source.teacher_handle, classes), Breaker(), fair_s)
        release = source.plan.release
        return Arm(source.plan.number, source.plan.weight, release.temperature, release.threshold, student, teacher)


def _service(args: AppArgs, plans: Sequence[Plan], artifact: Artifact, router: Router) -> Service:
    encoder = artifact.encoder()
    warm_up(encoder)
    return Service(
        model=args.model,
        encoder=encoder,
        router=router,
        about=describe(args, plans, artifact),
        max_rows=args.max_rows,
        max_body_bytes=args.max_body_bytes,
        meter=ServeMeter(args.model),
    )


def describe(args: AppArgs, plans: Sequence[Plan], artifact: Artifact) -> dict[str, Any]:
    """The answer to GET /v1/models/{m}: what a page needs to know."""
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
            }
            for plan in plans
        ],
    }


def _refuse_differing_encodings(plans: Sequence[Plan], artifacts: Sequence[Artifact]) -> None:
    """One endpoint reads payloads one way: Releases of a split that read them differently need two endpoints."""
    first = artifacts[0]
    for plan, artifact in zip(plans[1:], artifacts[1:], strict=True):
        same = artifact.manifest.encoding == first.manifest.encoding
        if not same or artifact.encoding_files() != first.encoding_files():
            raise ValueError(
                f"Releases {plans[0].number} and {plan.number} read their payloads differently "
                "(labels, image size or tokenizer): serve them as two applications"
            )


async def _first_call(arm: Arm, row: Array) -> None:
    try:
        await arm.teacher.insist(row[None], FIRST_CALL_TIMEOUT_S)
    except RefusedError as error:
        logger.warning("the teacher of release %d does not answer yet: %s", arm.number, error)
