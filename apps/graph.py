"""The Serve application: `apps.graph:build`, which serve_config.yaml names."""

from collections.abc import Sequence
from typing import Any

from ray import serve

from apps.args import AppArgs, ModelArgs
from apps.assembly import Part
from apps.batching.batcher import BatchLimits
from apps.ingress import Ingress
from apps.load import ModelSource
from apps.model import Model
from apps.observe.meter import Role
from apps.observe.metered import CountedAs
from apps.plan import Plan, resolve_plans
from training.registry import Registry

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

    Raises RegistryError where there is no registry, PlanError where it lacks a Release.
    """
    registry = Registry()
    plans = [resolve_plans(model, registry) for model in args.models]
    return assemble(args, plans, registry.tracking_uri)


def assemble(args: AppArgs, plans: Sequence[tuple[Plan, ...]], tracking_uri: str) -> serve.Application:
    """`plans` hold a tuple for each model.

    Deployments are Ingress, Teacher and, for a second Release, TeacherB; Student and StudentB where placed apart.
    Those of further models carry their model's name: Teacher-cifar10.
    """
    parts: list[Part] = []
    deployments: list[serve.Application] = []
    for model, of_model in zip(args.models, plans, strict=True):
        limits = BatchLimits(model.max_batch_rows, model.max_queue_rows, tuple(model.batch_sizes))

        def source(plan: Plan, role: Role, model: ModelArgs = model, limits: BatchLimits = limits) -> ModelSource:
            return ModelSource(
                version=plan.teacher if role == "teacher" else plan.student,
                tracking_uri=tracking_uri,
                cache_dir=args.cache_dir,
                limits=limits,
                threads=model.threads,
                runner=model.runners.teacher if role == "teacher" else model.runners.student,
                batching=model.batching,
                counted_as=CountedAs(model.model, str(plan.number), role),
                trace=args.trace,
            )

        part = Part(model, of_model, tuple(source(plan, "student") for plan in of_model))
        parts.append(part)
        teachers = [source(plan, "teacher") for plan in of_model]
        deployments += _deployed(args.deployment_names("Teacher", model, len(teachers)), teachers)
        if part.is_student_apart:
            deployments += _deployed(args.deployment_names("Student", model, len(part.students)), part.students)
    ingress = serve.deployment(name="Ingress", **INGRESS_DEFAULTS)(Ingress)
    return ingress.bind(args, parts, *deployments)


def _deployed(names: Sequence[str], sources: Sequence[ModelSource]) -> list[serve.Application]:
    return [
        serve.deployment(name=name, **MODEL_DEFAULTS)(Model).bind(source)
        for name, source in zip(names, sources, strict=True)
    ]
