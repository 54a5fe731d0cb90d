"""What Ray Serve takes in silence is refused before it is deployed."""

from pathlib import Path

import pytest
import yaml

from apps.args import AppArgs
from apps.serve_config import ServeConfigError, check, deployment_names

SHIPPED = Path(__file__).resolve().parents[2] / "serve_config.yaml"


@pytest.fixture
def config():
    return yaml.safe_load(SHIPPED.read_text())


@pytest.fixture
def teacher(config):
    (teacher,) = (item for item in config["applications"][0]["deployments"] if item["name"] == "Teacher")
    return teacher


def refusal(config):
    with pytest.raises(ServeConfigError) as error:
        check(config)
    return str(error.value)


@pytest.mark.parametrize("path", ["serve_config.yaml", "deploy/serve_config.yaml"])
def test_the_shipped_configs_are_right(path):
    check(yaml.safe_load((SHIPPED.parent / path).read_text()))


def test_a_misspelled_key_of_the_autoscaling_is_named_with_the_right_one(config, teacher):
    teacher["autoscaling_config"]["max_replica"] = 3
    assert "has no 'max_replica': did you mean 'max_replicas'?" in refusal(config)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((), "aplications"),
        (("http_options",), "prot"),
        (("applications", 0), "deployment"),
        (("applications", 0, "deployments", 0), "num_replica"),
        (("applications", 0, "deployments", 0, "ray_actor_options"), "num_cpu"),
    ],
)
def test_an_unknown_key_is_found_wherever_it_stands(config, path, name):
    place = config
    for key in path:
        place = place[key]
    place[name] = 1
    assert f"has no '{name}'" in refusal(config)


def test_a_deployment_that_the_graph_does_not_make_is_refused(config, teacher):
    teacher["name"] = "Teachers"
    assert "has no 'Teachers': did you mean 'Teacher'?" in refusal(config)


def test_settings_of_a_second_release_need_a_second_release(config, teacher):
    application = config["applications"][0]
    application["deployments"].append({**teacher, "name": "TeacherB"})
    assert "has no 'TeacherB'" in refusal(config)
    application["args"]["releases"].append({"ref": "candidate"})
    check(config)


def test_the_policy_has_to_exist_and_to_know_its_keywords(config, teacher):
    policy = {"policy_function": "apps.scaling:SloPolicy", "policy_kwargs": {"p95": 30}}
    teacher["autoscaling_config"]["policy"] = policy
    assert "unexpected keyword argument 'p95'" in refusal(config)
    policy["policy_kwargs"] = {"p95_ms": -1}
    assert "p95_ms is -1" in refusal(config)
    policy["policy_function"] = "apps.scaling:NoPolicy"
    assert "NoPolicy" in refusal(config)


def test_all_that_is_wrong_is_told_at_once(config, teacher):
    teacher["autoscaling_config"]["min_replicas"] = 9
    teacher["num_cpus"] = 1
    config["applications"][0]["args"]["deadline"] = 4
    told = refusal(config)
    assert all(text in told for text in ("min_replicas", "'num_cpus'", "args.deadline"))


def test_the_graph_of_somebody_else_has_its_own_names(config, teacher):
    config["applications"][0] = {
        "name": "other",
        "import_path": "other:app",
        "args": {"anything": 1},
        "deployments": [{"name": "X"}],
    }
    check(config)


def test_what_is_no_config_is_said_to_be_none():
    for text in (None, [], {}, {"applications": []}):
        assert "is this a Serve config?" in refusal(text)


@pytest.mark.parametrize(
    ("args", "names"),
    [
        ({}, {"Ingress", "Teacher"}),
        ({"student_placement": "deployment"}, {"Ingress", "Teacher", "Student"}),
        ({"releases": [{"ref": "1"}, {"ref": "2"}]}, {"Ingress", "Teacher", "TeacherB"}),
        ({"more_models": [{"model": "cifar10"}]}, {"Ingress", "Teacher", "Teacher-cifar10"}),
    ],
)
def test_the_names_are_those_of_the_graph(args, names):
    from ray.serve._private.build_app import build_app

    from apps.graph import assemble
    from tests.apps.test_graph import plan

    parsed = AppArgs(**args)
    assert deployment_names(parsed) == names
    plans = [tuple(plan(number) for number, _ in enumerate(model.releases, 1)) for model in parsed.models]
    built = build_app(assemble(parsed, plans, "http://127.0.0.1:5000"), name="tandem")
    assert {deployment.name for deployment in built.deployments} == names
