"""The Serve application: `apps.graph:build`, which serve_config.yaml names."""

from typing import Any

from ray import serve

from apps.args import AppArgs
from apps.batcher import BatchLimits
from apps.ingress import Ingress
from apps.load import ModelSource
from apps.model import Model
from apps.plan import Plan, resolve_plans
from training.registry import Registry, Version

# What a deployment gets where serve_config.yaml says nothing of it. Serve's own defaults are a whole CPU a replica,
# five requests at a time, a queue without end, and an update that stops the old replica before the new one is there.
MODEL_DEFAULTS: dict[str, Any] = {
    "max_ongoing_requests": 1024,
    "max_queued_requests": 512,
    "ray_actor_options": {"num_cpus": 0.3},
    "health_check_period_s": 5.0,
    "health_check_timeout_s": 30.0,
    "graceful_shutdown_wait_loop_s": 0.5,
    "graceful_shutdown_timeout_s": 10.0,
    "max_surge_percent": 100,
}
INGRESS_DEFAULTS: dict[str, Any] = {**MODEL_DEFAULTS, "max_queued_requests": 2048}


def build(args: AppArgs) -> serve.Application:
    """The graph for `args`; aliases are resolved here, once, so that no two replicas can serve different Versions.

    Raises RegistryError where there is no registry, PlanError where it lacks the Release.
    """
    registry = Registry()
    plans = resolve_plans(args, registry)
    return assemble(args, plans, registry.tracking_uri)


def assemble(args: AppArgs, plans: tuple[Plan, ...], tracking_uri: str) -> serve.Application:
    """Deployments Ingress, Teacher and, for the second Release, TeacherB; Student and StudentB where placed apart."""
    limits = BatchLimits(args.max_batch_rows, args.max_queue_rows)

    def source(version: Version) -> ModelSource:
        return ModelSource(version, tracking_uri, args.cache_dir, limits, args.threads)

    def deployed(kind: str, versions: list[Version]) -> list[serve.Application]:
        return [
            serve.deployment(name=f"{kind}{suffix}", **MODEL_DEFAULTS)(Model).bind(source(version))
            for suffix, version in zip(("", "B"), versions, strict=False)
        ]

    teachers = deployed("Teacher", [plan.teacher for plan in plans])
    students = deployed("Student", [plan.student for plan in plans]) if args.student_placement == "deployment" else []
    sources = [source(plan.student) for plan in plans]
    ingress = serve.deployment(name="Ingress", **INGRESS_DEFAULTS)(Ingress)
    return ingress.bind(args, plans, sources, *teachers, *students)
