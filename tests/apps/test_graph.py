"""The graph as Serve sees it, without a cluster."""

from pathlib import Path

import pytest
import yaml
from ray.serve._private.build_app import build_app
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from apps.args import AppArgs, RunnerArgs
from apps.graph import assemble, build
from apps.plan import Plan
from optimization.release import Guarantee, Release, VersionRef
from training.registry import RegistryError, Version

CONFIG = Path(__file__).resolve().parents[2] / "serve_config.yaml"


def plan(number):
    refs = VersionRef("digits", 1, "t"), VersionRef("digits", 2, "s")
    release = Release("digits", *refs, 1.0, 0.8, Guarantee("none", 0.0, None, 0, "none"))
    versions = (Version("digits", ref.number, ref.digest, "run", {}) for ref in refs)
    return Plan(number, 1.0, release, *versions)


def deployments(*plans, **args):
    application = assemble(AppArgs(**args), [plans], "http://127.0.0.1:5000")
    built = build_app(application, name="tandem")
    return {deployment.name: deployment for deployment in built.deployments}


@pytest.mark.parametrize(
    ("plans", "placement", "names"),
    [
        ((plan(1),), "ingress", {"Ingress", "Teacher"}),
        ((plan(1), plan(2)), "ingress", {"Ingress", "Teacher", "TeacherB"}),
        ((plan(1), plan(2)), "deployment", {"Ingress", "Teacher", "TeacherB", "Student", "StudentB"}),
    ],
)
def test_each_release_has_its_deployments(plans, placement, names):
    assert set(deployments(*plans, student_placement=placement)) == names


def test_deployments_of_a_further_model_carry_its_name():
    args = AppArgs(more_models=[{"model": "cifar10", "student_placement": "deployment"}])
    application = assemble(args, [(plan(1), plan(2)), (plan(3),)], "http://127.0.0.1:5000")
    names = [deployment.name for deployment in build_app(application, name="tandem").deployments]
    assert sorted(names) == ["Ingress", "Student-cifar10", "Teacher", "Teacher-cifar10", "TeacherB"]


def test_each_role_gets_the_runner_that_is_named_for_it():
    runners = {"teacher": {"backend": "onnxruntime-cuda"}, "student": {"allow_fallback": True}}
    graph = deployments(plan(1), student_placement="deployment", runners=runners)
    asked = {name: graph[name].init_args[0].runner for name in ("Teacher", "Student")}
    assert asked == {"Teacher": RunnerArgs(backend="onnxruntime-cuda"), "Student": RunnerArgs(allow_fallback=True)}


def test_a_whole_split_leaves_a_worker_its_cpu_on_two():
    graph = deployments(plan(1), plan(2))
    assert sum(item.ray_actor_options["num_cpus"] for item in graph.values()) <= 1.0


def test_no_deployment_has_a_queue_without_end():
    for deployment in deployments(plan(1), plan(2), student_placement="deployment").values():
        assert deployment.max_queued_requests > 0
        assert deployment.max_ongoing_requests >= 100


# Serve calls the key deprecated for environment variables that it does not read yet.
@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")
def test_the_shipped_config_names_only_what_exists():
    config = yaml.safe_load(CONFIG.read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "apps.graph:build"
    AppArgs(**application.args)
    raw = config["applications"][0]["deployments"]
    assert {item["name"] for item in raw} == set(deployments(plan(1)))
    known = set(type(application.deployments[0]).model_fields)
    for item in raw:
        # Serve takes misspelled keys in silence.
        assert set(item) <= known
        assert set(item.get("autoscaling_config", {})) <= set(AutoscalingConfig.model_fields)


def test_without_a_registry_the_error_says_what_to_set(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_URI is not set"):
        build(AppArgs())
