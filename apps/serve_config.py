"""`python -m apps.serve_config FILE`: is FILE what Ray Serve will do? Serve takes misspelled keys in silence.

An unknown key of a deployment, of its autoscaling or of its policy would leave a default in force that nobody wrote.
"""

import argparse
import difflib
import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from apps.args import AppArgs

IMPORT_PATH = "apps.graph:build"


class ServeConfigError(ValueError):
    """A config that Serve would refuse, or take to mean something else; the message lists all that is wrong."""


def check(config: Any) -> None:
    """Raises ServeConfigError."""
    if not isinstance(config, dict) or not isinstance(config.get("applications"), list) or not config["applications"]:
        raise ServeConfigError("there is no application in it: is this a Serve config?")
    problems = [*_unknown_keys(config), *_values(config)]
    for index, application in enumerate(config["applications"]):
        if isinstance(application, dict):
            problems += _application(application, f"applications[{index}]")
    if problems:
        raise ServeConfigError("\n".join(f"- {problem}" for problem in problems))


def deployment_names(args: AppArgs) -> set[str]:
    """The deployments that `apps.graph` makes of `args`."""
    names = {"Ingress"}
    for model in args.models:
        names.update(args.deployment_names("Teacher", model, len(model.releases)))
        if model.student_placement == "deployment":
            names.update(args.deployment_names("Student", model, len(model.releases)))
    return names


def _application(application: Mapping[str, Any], where: str) -> Iterator[str]:
    deployments = [item for item in application.get("deployments") or [] if isinstance(item, dict)]
    if application.get("import_path") == IMPORT_PATH:
        try:
            known = deployment_names(AppArgs.model_validate(application.get("args") or {}))
        except ValidationError as error:
            yield from (f"{where}.args.{_dotted(item['loc'])}: {item['msg']}" for item in error.errors())
        else:
            names = [str(item.get("name")) for item in deployments]
            yield from (_unknown(f"{where}.deployments", name, known) for name in names if name not in known)
    for item in deployments:
        if isinstance(item.get("autoscaling_config"), dict):
            yield from _autoscaling(item["autoscaling_config"], f"{where}.deployments[{item.get('name')}]")


def _autoscaling(autoscaling: Mapping[str, Any], where: str) -> Iterator[str]:
    """What Serve would find only when it builds the application, or never: the policy and its keywords."""
    from ray.serve.config import AutoscalingConfig

    try:
        with warnings.catch_warnings():
            # Serve calls `metrics_interval_s` deprecated, yet reads nothing else (Ray 2.56 to 2.60).
            warnings.simplefilter("ignore")
            policy = AutoscalingConfig(**autoscaling).policy
            chosen = policy.get_policy()
            if inspect.isclass(chosen):
                chosen(**policy.policy_kwargs)
    except ValidationError as error:
        yield from (f"{where}.autoscaling_config.{_dotted(item['loc'])}: {item['msg']}" for item in error.errors())
    except Exception as error:  # a policy may be anybody's code
        yield f"{where}.autoscaling_config.policy: {type(error).__name__}: {error}"


def _values(config: dict[str, Any]) -> Iterator[str]:
    from ray.serve.schema import ServeDeploySchema

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        found = ((_dotted(item["loc"]), item["msg"]) for item in error.errors())
        yield from (f"{where}: {message}" for where, message in found if "autoscaling_config" not in where)
    except Exception:  # a policy that cannot be imported: `_autoscaling` says where it stands
        return


def _unknown_keys(config: Mapping[str, Any]) -> Iterator[str]:
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
    from ray.serve.schema import (
        DeploymentSchema,
        HTTPOptionsSchema,
        RayActorOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
        gRPCOptionsSchema,
    )

    # A list stands for each of its items.
    nested: dict[type, dict[str, type]] = {
        ServeDeploySchema: {
            "http_options": HTTPOptionsSchema,
            "grpc_options": gRPCOptionsSchema,
            "applications": ServeApplicationSchema,
        },
        ServeApplicationSchema: {"deployments": DeploymentSchema},
        DeploymentSchema: {"autoscaling_config": AutoscalingConfig, "ray_actor_options": RayActorOptionsSchema},
        AutoscalingConfig: {"policy": AutoscalingPolicy},
    }

    def walk(value: Any, schema: Any, where: str) -> Iterator[str]:
        if isinstance(value, list):
            for index, item in enumerate(value):
                name = item.get("name", index) if isinstance(item, dict) else index
                yield from walk(item, schema, f"{where}[{name}]")
        elif isinstance(value, dict):
            for key, item in value.items():
                if key not in schema.model_fields:
                    yield _unknown(where or "the file", str(key), schema.model_fields)
                elif key in nested.get(schema, {}):
                    yield from walk(item, nested[schema][key], f"{where}.{key}".lstrip("."))

    yield from walk(config, ServeDeploySchema, "")


def _unknown(where: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
    return f"{where} has no {name!r}: {hint}"


def _dotted(location: Iterable[Any]) -> str:
    return ".".join(map(str, location))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="apps.serve_config", description="Check a Serve config before it is deployed."
    )
    parser.add_argument("config", type=Path)
    path = parser.parse_args().config
    try:
        check(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ServeConfigError) as error:
        sys.exit(f"apps.serve_config: {path}:\n{error}")
    print(f"{path}: nothing wrong")


if __name__ == "__main__":
    main()
